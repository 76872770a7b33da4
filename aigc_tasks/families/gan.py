"""Generative adversarial networks (Goodfellow et al. 2014, arXiv:1406.2661), class-conditional where there are labels.

Two objectives:

- ``relativistic``: R3GAN (Huang et al. 2024, arXiv:2501.05441). The discriminator is asked which of a *pair* is real
  (relativistic pairing loss, Jolicoeur-Martineau 2018, arXiv:1807.00734), with zero-centred gradient penalties on real
  (R1, Mescheder et al. 2018, arXiv:1801.04406) and generated images (R2). It has local convergence guarantees and does
  not drop modes the way the original objective does.
- ``bce``: the original objective, binary cross-entropy with the non-saturating generator loss: the textbook baseline.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from aigc_tasks.families import Family, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn


class Gan(Family):
    sampler: ClassVar[str] = "generator"

    objective: Literal["relativistic", "bce"] = "relativistic"
    penalty: float = Field(0.1, ge=0, description="γ: weight of the R1 and R2 gradient penalties (relativistic only)")
    latent: int = Field(32, gt=0, description="dimensions of the noise")
    conditional: bool = Field(True, description="use the labels, where the data set has them")
    width: int = Field(32, gt=0, description="channels at full resolution, or units of the narrowest layer of an mlp")

    def networks(self, architecture: str, shape: tuple[int, int, int], classes: int) -> dict[str, nn.Module]:
        module = importlib.import_module(f"aigc_tasks.networks.{architecture}")
        return {
            "discriminator": module.Discriminator(shape, classes, self.width),
            "generator": module.Generator(shape, classes, self.latent, self.width),
        }

    def objectives(self, networks: dict[str, nn.Module], images: Tensor, labels: Tensor) -> Iterator[Objective]:
        import torch
        from torch.nn.functional import softplus

        discriminator, generator = networks["discriminator"], networks["generator"]
        with torch.no_grad():
            fakes = self.sample(generator, labels)
        penalised = self.objective == "relativistic" and self.penalty > 0
        both = torch.cat([images, fakes]).detach().requires_grad_(penalised)
        logits = discriminator(both, labels.repeat(2))
        real, fake = logits.chunk(2)
        if self.objective == "relativistic":
            loss = softplus(fake - real).mean()
        else:
            loss = (softplus(-real).mean() + softplus(fake).mean()) / 2
        curves = {"discriminator": loss.detach(), "margin": (real - fake).detach().mean()}
        if penalised:
            r1, r2 = gradient_penalties(logits, both)
            loss = loss + self.penalty / 2 * (r1 + r2)
            curves |= {"r1": r1.detach(), "r2": r2.detach()}
        yield Objective("discriminator", loss, curves)

        discriminator.requires_grad_(False)
        fake = discriminator(self.sample(generator, labels), labels)
        if self.objective == "relativistic":
            loss = softplus(discriminator(images, labels) - fake).mean()
        else:
            loss = softplus(-fake).mean()
        yield Objective("generator", loss, {"generator": loss.detach()})
        discriminator.requires_grad_(True)

    def sample(self, network: nn.Module, labels: Tensor) -> Tensor:
        import torch

        noise = torch.randn(len(labels), self.latent, device=labels.device)
        images: Tensor = network(noise, labels)
        return images


def gradient_penalties(logits: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """R1 and R2: mean squared norm of the logits' gradient at the real and at the generated half of ``both``."""
    import torch

    (slopes,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
    r1, r2 = slopes.square().flatten(1).sum(1).chunk(2)
    return r1.mean(), r2.mean()
