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

SLOPE = 0.2


def layers(sizes: list[int]) -> nn.Sequential:
    """Linear layers between ``sizes``, a LeakyReLU after each but the last."""
    stack: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        stack += [nn.Linear(inputs, outputs), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*stack[:-1])


class Generator(nn.Module):
    """Noise B×latent (and labels B, as one-hot inputs) to images B×C×H×W in [-1, 1]."""

    def __init__(self, shape: tuple[int, int, int], classes: int, latent: int, width: int) -> None:
        super().__init__()
        self.shape, self.classes = shape, classes
        self.layers = layers([latent + classes, width, 2 * width, 4 * width, prod(shape)])

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.classes:
            z = torch.cat([z, F.one_hot(labels, self.classes).to(z)], dim=1)
        return self.layers(z).tanh().unflatten(1, self.shape)


class Discriminator(nn.Module):
    """Images B×C×H×W (and labels B, as one-hot inputs) to one logit each, B."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = layers([prod(shape) + classes, 2 * width, width, 1])

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = images.flatten(1)
        if self.classes:
            x = torch.cat([x, F.one_hot(labels, self.classes).to(x)], dim=1)
        return self.layers(x).squeeze(1)
