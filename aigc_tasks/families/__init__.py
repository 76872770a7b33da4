"""How a model learns and samples: one file per family, one line in ``FAMILIES``.

A family is the validated ``model:`` section of a recipe. It says which networks it is built from, what it minimises
and how it samples; the loop in ``aigc_tasks.train`` does the rest (optimisers, EMA, checkpoints, tracking) and knows
none of them by name. Family files import torch inside their methods: recipes are checked in milliseconds without it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from aigc_tasks.knobs import Knobs

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILIES = {
    "gan": "aigc_tasks.families.gan:Gan",
    "vae": "aigc_tasks.families.vae:Vae",
    "diffusion": "aigc_tasks.families.diffusion:Diffusion",
}


class Objective(NamedTuple):
    """One optimiser step: which network takes it, the scalar it minimises, and what to plot."""

    network: str
    loss: Tensor
    curves: dict[str, Tensor]


class Family(Knobs, ABC):
    """What the loop, the sampler, the evaluation and the registry need of a family."""

    conditional: bool
    """Whether to use the labels, where the data set has them. The family's file sets the default."""

    sampler: ClassVar[str]
    """The network that samples: its moving average (EMA) is the trained model."""

    roles: ClassVar[tuple[str, ...]]
    """What a network's file must offer for this family; see ``aigc_tasks.networks``."""

    training: ClassVar[dict[str, Any]] = {}
    """Defaults of the ``train:`` section that suit this family better than the general ones."""

    search: ClassVar[dict[str, tuple[float, float]]] = {"train.learning_rate": (2e-4, 5e-3)}
    """What ``aigc tune`` searches where it is not told: knobs with their bounds, on a logarithmic scale."""

    Sampling: ClassVar[type[Knobs]] = Knobs
    """Knobs of sampling, which may change after training: ``sampling:`` in a recipe's ``postprocess:`` section."""

    @abstractmethod
    def networks(self, architecture: str, shape: tuple[int, int, int], classes: int) -> dict[str, nn.Module]:
        """The networks by name, initialised from torch's global random state; ``classes`` is 0 for no labels."""

    @abstractmethod
    def objectives(self, networks: dict[str, nn.Module], images: Tensor, labels: Tensor) -> Iterator[Objective]:
        """The optimiser steps for one batch (images B×C×H×W in [-1, 1], labels B), in order.

        A generator: the loop takes the step of one objective before it asks for the next.
        """

    @abstractmethod
    def noise_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Of the Gaussian noise that one image C×H×W is made from."""

    @abstractmethod
    def sample(self, network: nn.Module, noise: Tensor, labels: Tensor, sampling: Any) -> Tensor:
        """Images B×C×H×W in about [-1, 1] of the asked classes, made from Gaussian noise B×``noise_shape``.

        Near noise gives near images. ``sampling`` is an instance of ``Sampling``.
        """

    def checked(self, sampling: Any, where: str) -> Any:
        """``sampling``, if this model can be sampled so; raises ``UserError`` beginning with ``where``."""
        return sampling

    def reconstruct(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """What the model keeps of images B×C×H×W in [-1, 1]; None for a family that does not look at images."""
        return None

    def bits(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """Bits per dimension, B, that the model needs at most to encode 8-bit images; None if it cannot tell."""
        return None


def load(name: str) -> type[Family]:
    """The family registered under ``name``."""
    module, attribute = FAMILIES[name].split(":")
    return getattr(importlib.import_module(module), attribute)
