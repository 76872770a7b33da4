"""Generative adversarial networks (Goodfellow et al. 2014, arXiv:1406.2661), class-conditional where there are labels.

Two objectives:

- ``relativistic``: R3GAN (Huang et al. 2024, arXiv:2501.05441). The discriminator is asked which of a *pair* is real
  (relativistic pairing loss, Jolicoeur-Martineau 2018, arXiv:1807.00734), with zero-centred gradient penalties on real
  (R1, Mescheder et al. 2018, arXiv:1801.04406) and generated images (R2). It has local convergence guarantees and does
  not drop modes the way the original objective does.
- ``bce``: the original objective, binary cross-entropy with the non-saturating generator loss: the textbook baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from aigc_tasks import knobs, networks
from aigc_tasks.families import Family, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn


PENALISED = 0.25  # of a batch: going through the discriminator twice is most of a step's time, and some tell enough


class Sampling(knobs.Knobs):
    truncation: float = Field(1.0, ge=0, description="factor on the noise; lower: more typical images, less variety")


class Gan(Family):
    sampler: ClassVar[str] = "generator"
    roles: ClassVar[tuple[str, ...]] = ("Generator", "Discriminator")
    training: ClassVar[dict[str, Any]] = {"beta1": 0.0}
    search: ClassVar[dict[str, tuple[float, float]]] = {
        "train.learning_rate": (2e-4, 3e-3),
        "model.penalty": (0.01, 2.0),
    }
    Sampling: ClassVar[type[knobs.Knobs]] = Sampling

    objective: Literal["relativistic", "bce"] = "relativistic"
    penalty: float = Field(0.1, ge=0, description="γ: weight of the R1 and R2 gradient penalties (relativistic only)")
    latent: int = Field(32, gt=0, description="dimensions of the noise")
    conditional: bool = Field(True, description="use the labels, where the data set has them")
    width: int = Field(32, gt=0, description="channels at full resolution, or units of the narrowest layer of an mlp")

    attention: bool = Field(False, description="self-attention in feature maps of at most 16 pixels a side")
    augment: list[Literal["colour", "translation", "cutout"]] = Field(
        [], description="what the discriminator sees through, real and generated alike; for some hundred images"
    )

    def networks(self, architecture: str, shape: tuple[int, int, int], classes: int) -> dict[str, nn.Module]:
        module = networks.load(architecture)
        return {
            "discriminator": module.Discriminator(shape, classes, self.width, self.attention),
            "generator": module.Generator(shape, classes, self.latent, self.width, self.attention),
        }

    def objectives(self, networks: dict[str, nn.Module], images: Tensor, labels: Tensor) -> Iterator[Objective]:
        import torch
        from torch.nn.functional import softplus

        discriminator, generator = networks["discriminator"], networks["generator"]
        with torch.no_grad():
            fakes = self.draw(generator, labels)
        penalised = self.objective == "relativistic" and self.penalty > 0
        # What is penalised is judged apart from the rest: it alone keeps what a second pass needs.
        some = math.ceil(PENALISED * len(images)) if penalised else len(images)
        sizes = [size for size in (some, len(images) - some) if size]
        parts = [torch.cat(pair).detach() for pair in zip(images.split(sizes), fakes.split(sizes), strict=True)]
        parts[0].requires_grad_(penalised)
        told = zip(parts, labels.split(sizes), strict=True)
        logits = [discriminator(augmented(part, self.augment), own.repeat(2)) for part, own in told]
        real, fake = (torch.cat(own) for own in zip(*(part.chunk(2) for part in logits), strict=True))
        if self.objective == "relativistic":
            loss = softplus(fake - real).mean()
        else:
            loss = (softplus(-real).mean() + softplus(fake).mean()) / 2
        curves = {"discriminator": loss.detach(), "margin": (real - fake).detach().mean()}
        if penalised:
            r1, r2 = gradient_penalties(logits[0], parts[0])
            loss = loss + self.penalty / 2 * (r1 + r2)
            curves |= {"r1": r1.detach(), "r2": r2.detach()}
        yield Objective("discriminator", loss, curves)

        discriminator.requires_grad_(False)
        fake = discriminator(augmented(self.draw(generator, labels), self.augment), labels)
        beaten = real.detach() if self.objective == "relativistic" else 0.0  # as judged before the discriminator's step
        loss = softplus(beaten - fake).mean()
        yield Objective("generator", loss, {"generator": loss.detach()})
        discriminator.requires_grad_(True)

    def draw(self, generator: nn.Module, labels: Tensor) -> Tensor:
        import torch

        return generator(torch.randn(len(labels), self.latent, device=labels.device), labels)

    def noise_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        return (self.latent,)

    def sample(self, network: nn.Module, noise: Tensor, labels: Tensor, sampling: Any) -> Tensor:
        return network(sampling.truncation * noise, labels)


def gradient_penalties(logits: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """R1 and R2: mean squared norm of the logits' gradient at the real and at the generated half of ``both``."""
    import torch

    (slopes,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
    r1, r2 = slopes.square().flatten(1).sum(1).chunk(2)
    return r1.mean(), r2.mean()


def augmented(images: Tensor, kinds: list[Literal["colour", "translation", "cutout"]]) -> Tensor:
    """Images B×C×H×W in [-1, 1], each changed by chance in a way that gradients pass through.

    Differentiable augmentation (Zhao et al. 2020, arXiv:2006.10738): the discriminator cannot learn a small data set by
    heart, and as it never sees an image that is not augmented, the generator does not learn the augmentation.
    """
    import torch

    count, _, height, width = images.shape
    if "colour" in kinds:
        brightness, saturation, contrast = torch.rand(3, count, 1, 1, 1, device=images.device)
        images = images + (brightness - 0.5)
        grey = images.mean(1, keepdim=True)
        images = grey + (images - grey) * 2 * saturation
        level = images.mean((1, 2, 3), keepdim=True)
        images = level + (images - level) * (contrast + 0.5)
    down, right = (torch.arange(side, device=images.device) for side in (height, width))
    if "translation" in kinds:  # by up to an eighth; what comes in from outside is black
        reach = torch.tensor([height // 8, width // 8], device=images.device)[:, None]
        rows, columns = torch.round((torch.rand(2, count, device=images.device) * 2 - 1) * reach).long()
        y, x = down + rows[:, None], right + columns[:, None]
        inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        own = torch.arange(count, device=images.device)[:, None, None]
        moved = images[own, :, y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None, :]]
        images = torch.where(inside[:, None], moved.permute(0, 3, 1, 2), -1.0)
    if "cutout" in kinds:  # a square of half the side, grey, perhaps partly outside
        y, x = torch.rand(2, count, 1, device=images.device) * torch.tensor([height, width]).to(images)[:, None, None]
        hole = ((down - y).abs() < height / 4)[:, :, None] & ((right - x).abs() < width / 4)[:, None, :]
        images = images.masked_fill(hole[:, None], 0.0)
    return images
