"""Fully connected networks: the textbook baseline (Goodfellow et al. 2014, arXiv:1406.2661).

With ``latent=100, width=256`` on 28×28 images the generator is 100-256-512-1024-784 and the discriminator
784-512-256-1, both with LeakyReLU 0.2.
"""

from __future__ import annotations

import itertools
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_tasks.errors import UserError

SLOPE = 0.2


def layers(sizes: list[int]) -> nn.Sequential:
    """Linear layers between ``sizes``, a LeakyReLU after each but the last."""
    stack: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        stack += [nn.Linear(inputs, outputs), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*stack[:-1])


def told(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Vectors B×D with the labels beside them, as one-hot inputs."""
    return torch.cat([x, F.one_hot(labels, classes).to(x)], dim=1) if classes else x


class Decoder(nn.Module):
    """Noise B×latent and labels B to B×C×H×W, unbounded."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, latent: int, width: int, attention: bool = False
    ) -> None:
        super().__init__()
        refuse(attention)
        self.shape, self.classes = shape, classes
        self.layers = layers([latent + classes, width, 2 * width, 4 * width, prod(shape)])

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.layers(told(z, labels, self.classes)).unflatten(1, self.shape)


class Generator(Decoder):
    """Noise B×latent and labels B to images B×C×H×W in [-1, 1], always float32.

    Of a bfloat16 from 3.5 on, tanh has no gradient: a generator that strayed there would never come back.
    """

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return super().forward(z, labels).float().tanh()


class Encoder(nn.Module):
    """Images B×C×H×W and labels B to B×outputs."""

    def __init__(self, shape: tuple[int, int, int], classes: int, outputs: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = layers([prod(shape) + classes, 2 * width, width, outputs])

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.layers(told(images.flatten(1), labels, self.classes))


class Discriminator(Encoder):
    """Images B×C×H×W and labels B to one logit each, B, given as float32: a bfloat16 would round their differences."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int, attention: bool = False) -> None:
        refuse(attention)
        super().__init__(shape, classes, 1, width)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return super().forward(images, labels).squeeze(1).float()


def refuse(attention: bool) -> None:
    if attention:
        raise UserError("model.attention: the network mlp has no feature maps to attend to; set `network: resnet`")
