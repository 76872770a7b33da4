"""A U-Net that removes noise (Ronneberger et al. 2015, arXiv:1505.04597; Ho et al. 2020, arXiv:2006.11239).

Residual blocks are told the noise level and the label by scaling and shifting normalised features (FiLM, Perez et al.
2017, arXiv:1709.07871). Feature maps of at most ``ATTENTION`` pixels a side, but not the image's own, attend to
themselves. Blocks and the last layer end in zeros, so that the network starts by predicting nothing. Halving follows
the image as in ``resnet``.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_tasks.errors import UserError
from aigc_tasks.networks.layers import Attention, Dropout, Pointwise, normalisation, resolutions, zero

WIDEST = 4  # times ``width``: channels double at every halving up to here
BLOCKS = 1  # per resolution, on the way down; one more on the way up
ATTENTION = 8  # pixels a side of the largest feature map that attends to itself


class Denoiser(nn.Module):
    """Noisy images B×C×H×W, noise levels B and labels B to B×C×H×W.

    Label ``classes`` means "no label": what guidance (Ho & Salimans 2022, arXiv:2207.12598) compares with. Squares of
    ``patch`` × ``patch`` pixels are seen as one with more channels, which costs that many times less (Hoogeboom et al.
    2023, arXiv:2301.11093). ``dropout`` (Srivastava et al. 2014, JMLR 15:1929) keeps small data sets from being learned
    by heart.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, width: int, patch: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if shape[1] % patch or shape[2] % patch:
            raise UserError(f"model.patch: {patch} does not divide images of {shape[1]}×{shape[2]} pixels; set it to 1")
        shape = (shape[0] * patch**2, shape[1] // patch, shape[2] // patch)
        sizes = resolutions(shape)
        widths = [width * min(2**level, WIDEST) for level in range(len(sizes))]
        attends = [max(size) <= ATTENTION and (level > 0 or len(sizes) == 1) for level, size in enumerate(sizes)]
        told = 4 * width
        self.level = nn.Sequential(nn.Linear(2 * width, told), nn.SiLU(), nn.Linear(told, told))
        self.label = nn.Embedding(classes + 1, told) if classes else None
        self.start = nn.Conv2d(shape[0], width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, now = [width], width
        for level, wide in enumerate(widths):
            for _ in range(BLOCKS):
                self.down.append(Block(now, wide, told, attends[level], dropout))
                skips.append(now := wide)
            if level + 1 < len(sizes):
                self.down.append(Shrink(now))
                skips.append(now)
        self.middle = Block(now, now, told, attends[-1], dropout)
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(BLOCKS + 1):
                self.up.append(Block(now + skips.pop(), wide, told, attends[level], dropout))
                now = wide
            if level > 0:
                self.up.append(Grow(now, now := widths[level - 1]))
        self.end = nn.Sequential(normalisation(now), nn.SiLU(), zero(nn.Conv2d(now, shape[0], 3, padding=1)))
        self.width, self.unknown, self.patch = width, classes, patch

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        told = self.level(waves(level, 2 * self.width))
        if self.label is not None:
            told = told + self.label(labels)
        told = F.silu(told)
        h = self.start(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for layer in self.down:
            h = layer(h, told)
            skips.append(h)
        h = self.middle(h, told)
        for layer in self.up:
            h = layer(h if isinstance(layer, Grow) else torch.cat([h, skips.pop()], 1), told)
        return F.pixel_shuffle(self.end(h), self.patch)


class Block(nn.Module):
    """Residual block at constant size, told of noise level and label; then self-attention if it ``attends``."""

    def __init__(self, inputs: int, outputs: int, told: int, attends: bool, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(normalisation(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.normal = normalisation(outputs)
        self.told = nn.Linear(told, 2 * outputs)
        self.dropout = Dropout(dropout) if dropout else nn.Identity()
        self.second = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = Pointwise(inputs, outputs) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attends else None

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        h = self.normal(self.first(x)) * (1 + scale) + shift
        h = self.skip(x) + self.second(self.dropout(F.silu(h)))
        return h if self.attention is None else self.attention(h)


class Shrink(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.convolution(x)


class Grow(nn.Module):
    """Twice the size, with the channels that there are at it: convolved before, where there are a quarter of pixels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return F.interpolate(self.convolution(x), scale_factor=2.0)


def waves(level: Tensor, width: int) -> Tensor:
    """Sines and cosines of noise levels B at geometrically spaced frequencies: B×width."""
    frequencies = torch.exp(torch.linspace(log(1.0), log(1000.0), width // 2, device=level.device))
    angles = level[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)
