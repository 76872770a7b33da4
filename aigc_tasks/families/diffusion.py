"""Diffusion by flow matching (Lipman et al. 2023, arXiv:2210.02747; rectified flow, Liu et al. 2023, arXiv:2209.03003).

At noise level t an image x becomes (1 - t)·x + t·ε. The network learns the velocity ε - x, at levels drawn from a
logit-normal distribution (Esser et al. 2024, arXiv:2403.03206). Sampling integrates the velocity from pure noise at 1
to an image at 0 with Heun's method; it can be made stochastic by adding fresh noise before every step ("churn", Karras
et al. 2022, arXiv:2206.00364, algorithm 2). Where there are labels, some are hidden from the network, so that it can be
guided away from what it would draw without them (Ho & Salimans 2022, arXiv:2207.12598).

EDM's preconditioning (Karras et al. 2022) was measured beside this at equal cost: see docs/measured.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from aigc_tasks import knobs, networks
from aigc_tasks.errors import UserError
from aigc_tasks.families import Family, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn


class Sampling(knobs.Knobs):
    evaluations: int = Field(19, gt=0, description="of the network per image; two make a step of Heun's method")
    guidance: float = Field(1.0, ge=0, description="1: as learned; more: clearer classes, less variety, twice the cost")
    churn: float = Field(
        0.0, ge=0, le=1, description="how far a step first goes back towards the level before, by fresh noise"
    )


class Diffusion(Family):
    sampler: ClassVar[str] = "denoiser"
    roles: ClassVar[tuple[str, ...]] = ("Denoiser",)
    training: ClassVar[dict[str, Any]] = {"beta1": 0.9, "batch": 64, "ema": 0.998, "final_learning_rate": 0.01}
    Sampling: ClassVar[type[knobs.Knobs]] = Sampling

    width: int = Field(32, gt=0, multiple_of=4, description="channels at full resolution")
    patch: int = Field(1, gt=0, description="pixels a side that the network sees as one; 2 costs a quarter")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of activations dropped in training; for small data sets")
    conditional: bool = Field(True, description="use the labels, where the data set has them")
    hidden_labels: float = Field(0.1, ge=0, lt=1, description="share of the labels hidden in training, for guidance")

    def networks(self, architecture: str, shape: tuple[int, int, int], classes: int) -> dict[str, nn.Module]:
        return {"denoiser": networks.load(architecture).Denoiser(shape, classes, self.width, self.patch, self.dropout)}

    def objectives(self, networks: dict[str, nn.Module], images: Tensor, labels: Tensor) -> Iterator[Objective]:
        import torch

        denoiser: Any = networks["denoiser"]
        level = torch.randn(len(images), device=images.device).sigmoid()
        noise = torch.randn_like(images)
        hidden = torch.rand(len(images), device=images.device) < self.hidden_labels
        labels = labels.masked_fill(hidden, denoiser.unknown)
        t = level[:, None, None, None]
        velocity = denoiser((1 - t) * images + t * noise, level, labels)
        loss = (velocity - (noise - images)).square().mean()
        yield Objective("denoiser", loss, {"velocity": loss.detach()})

    def checked(self, sampling: Any, where: str) -> Any:
        if sampling.guidance != 1 and not self.conditional:
            raise UserError(
                f"{where}.postprocess.sampling.guidance: a model that knows no labels cannot be guided; "
                "set `guidance: 1.0`, or train with `conditional: true` under model on data with labels"
            )
        if sampling.guidance != 1 and self.hidden_labels == 0:
            raise UserError(
                f"{where}.postprocess.sampling.guidance: a model that always saw the labels cannot be guided; "
                "set `guidance: 1.0`, or `hidden_labels: 0.1` under model and train again"
            )
        return sampling

    def noise_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        return shape

    def sample(self, network: nn.Module, noise: Tensor, labels: Tensor, sampling: Any) -> Tensor:
        import torch

        steps = sampling.evaluations // 2 + 1
        twice = (sampling.evaluations - 1) // 2  # the rest by Euler: the last, whose end at 0 was never learned, or two
        levels = torch.linspace(1, 0, steps + 1).tolist()
        x = noise
        for number, (level, after) in enumerate(itertools.pairwise(levels)):
            if sampling.churn and number > 0:
                x, level = churned(x, level, min(1 + sampling.churn * (levels[number - 1] / level - 1), 2))
            velocity = self.velocity(network, x, level, labels, sampling.guidance)
            ahead = x + (after - level) * velocity
            if number < twice:
                velocity = (velocity + self.velocity(network, ahead, after, labels, sampling.guidance)) / 2
                ahead = x + (after - level) * velocity
            x = ahead
        return x

    def velocity(self, network: Any, x: Tensor, level: float, labels: Tensor, guidance: float) -> Tensor:
        """Of x at one noise level, guided."""
        import torch

        levels = torch.full((len(x),), level, device=x.device)
        if guidance == 1 or not network.unknown:
            return network(x, levels, labels)
        unknown = torch.full_like(labels, network.unknown)
        told, untold = network(x.repeat(2, 1, 1, 1), levels.repeat(2), torch.cat([labels, unknown])).chunk(2)
        return untold + guidance * (told - untold)


def churned(x: Tensor, level: float, factor: float) -> tuple[Tensor, float]:
    """x at a level whose noise-to-image ratio is ``factor`` times as high, by adding fresh noise; and that level."""
    import torch

    ratio = level / (1 - level)
    higher = ratio * factor
    raised = higher / (1 + higher)
    fresh = (higher**2 - ratio**2) ** 0.5 * torch.randn_like(x)
    return (x / (1 - level) + fresh) * (1 - raised), raised
