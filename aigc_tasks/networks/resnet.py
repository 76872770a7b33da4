"""Residual convolutional networks without normalisation layers, for images of any size.

The plan follows R3GAN (Huang et al. 2024, arXiv:2501.05441): plain residual blocks, LeakyReLU, no normalisation,
initialised as in Fixup (Zhang et al. 2019, arXiv:1901.09321) so that every block starts as the identity; the label
enters the generator as an embedding beside the noise and the discriminator by projection (Miyato & Koyama 2018,
arXiv:1802.05637). The number of resolutions follows from the image: halve while the result is whole and at least 4.
Between two of them channels change at the coarser one, where it costs a quarter and means the same.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_tasks.networks.layers import Attention, Pointwise, resolutions, zero

SLOPE = 0.2
ATTENTION = 16  # pixels a side of the largest feature map that attends to itself, where attention is asked for
WIDEST = 4  # times ``width``: channels double at every halving up to here


def channels(width: int, levels: int) -> list[int]:
    """Channels per resolution, from the image down."""
    return [width * min(2**level, WIDEST) for level in range(levels)]


class Block(nn.Module):
    """x + f(x) at constant size; f ends in zeros, so that the block starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.kaiming_normal_(self.first.weight, a=SLOPE)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.leaky_relu(x, SLOPE))
        return x + self.second(F.leaky_relu(h, SLOPE))


class Decoder(nn.Module):
    """Noise B×latent and labels B to B×C×H×W, unbounded."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, latent: int, width: int, attention: bool = False
    ) -> None:
        super().__init__()
        sizes = resolutions(shape)
        widths = channels(width, len(sizes))
        self.coarsest = (widths[-1], *sizes[-1])
        self.label = nn.Embedding(classes, latent) if classes else None
        inputs = 2 * latent if classes else latent
        self.start = nn.Linear(inputs, widths[-1] * sizes[-1][0] * sizes[-1][1])
        stack: list[nn.Module] = [Block(widths[-1])]
        for wide, narrow, size in zip(widths[:0:-1], widths[-2::-1], sizes[-2::-1], strict=True):
            stack += [Pointwise(wide, narrow), nn.Upsample(scale_factor=2), Block(narrow)]
            if attention and max(size) <= ATTENTION:
                stack.append(Attention(narrow, normal=False))
        self.blocks = nn.Sequential(*stack)
        self.end = nn.Conv2d(widths[0], shape[0], 3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if self.label is not None:
            z = torch.cat([z, self.label(labels)], dim=1)
        h = self.blocks(self.start(z).unflatten(1, self.coarsest))
        return self.end(F.leaky_relu(h, SLOPE))


class Generator(Decoder):
    """Noise B×latent and labels B to images B×C×H×W in [-1, 1], always float32.

    Of a bfloat16 from 3.5 on, tanh has no gradient: a generator that strayed there would never come back.
    """

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return super().forward(z, labels).float().tanh()


class Trunk(nn.Module):
    """Images B×C×H×W to features B×F."""

    def __init__(self, shape: tuple[int, int, int], width: int, attention: bool = False) -> None:
        super().__init__()
        sizes = resolutions(shape)
        widths = channels(width, len(sizes))
        self.start = nn.Conv2d(shape[0], widths[0], 3, padding=1)
        stack: list[nn.Module] = [Block(widths[0])]
        for (narrow, wide), size in zip(itertools.pairwise(widths), sizes[1:], strict=True):
            stack += [nn.AvgPool2d(2), Pointwise(narrow, wide), Block(wide)]
            if attention and max(size) <= ATTENTION:
                stack.append(Attention(wide, normal=False))
        self.blocks = nn.Sequential(*stack)
        self.features = widths[-1]
        self.end = nn.Conv2d(self.features, self.features, sizes[-1])

    def forward(self, images: Tensor) -> Tensor:
        h = F.leaky_relu(self.blocks(self.start(images)), SLOPE)
        return F.leaky_relu(self.end(h).flatten(1), SLOPE)


class Discriminator(nn.Module):
    """Images B×C×H×W and labels B to one logit each, B, given as float32: a bfloat16 would round their differences."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int, attention: bool = False) -> None:
        super().__init__()
        self.trunk = Trunk(shape, width, attention)
        self.logit = nn.Linear(self.trunk.features, 1)
        self.label = nn.Embedding(classes, self.trunk.features) if classes else None
        self.scale = self.trunk.features**-0.5

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = self.trunk(images)
        logits = self.logit(h).squeeze(1)
        if self.label is not None:
            logits = logits + (h * self.label(labels)).sum(1) * self.scale
        return logits.float()


class Encoder(nn.Module):
    """Images B×C×H×W and labels B to B×outputs, which start at zero."""

    def __init__(self, shape: tuple[int, int, int], classes: int, outputs: int, width: int) -> None:
        super().__init__()
        self.trunk = Trunk(shape, width)
        self.label = nn.Embedding(classes, self.trunk.features) if classes else None
        self.outputs = zero(nn.Linear(self.trunk.features, outputs))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = self.trunk(images)
        return self.outputs(h if self.label is None else h + self.label(labels))
