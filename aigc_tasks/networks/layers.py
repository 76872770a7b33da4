"""What networks of several families are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 4  # pixels: the coarsest feature map is not narrower than this
HEAD = 32  # channels of an attention head
SCALE = 2.0  # of a coupling's logarithmic scale, at most


def resolutions(shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Feature map sizes from the image down, halved while whole and at least 4: (28, 28) gives 28, 14 and 7."""
    sizes = [shape[1:]]
    while all(side % 2 == 0 and side // 2 >= SMALLEST for side in sizes[-1]):
        height, width = sizes[-1]
        sizes.append((height // 2, width // 2))
    return sizes


def zero(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer, starting out as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def normalisation(width: int) -> nn.GroupNorm:
    """Group normalisation (Wu & He 2018, arXiv:1803.08494) in groups of at least four channels, at most 32 of them."""
    most = min(32, max(1, width // 4))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if width % groups == 0), width)


class Pointwise(nn.Conv2d):
    """A 1×1 convolution, B×C×H×W: as one matrix product, which takes a CPU two thirds of a convolution's time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x.flatten(2).mT).mT.unflatten(2, x.shape[2:])

    def each(self, pixels: Tensor) -> Tensor:
        """The same of pixels B×P×C."""
        return F.linear(pixels, self.weight.flatten(1), self.bias)


class Dropout(nn.Dropout):
    """Srivastava et al. 2014, JMLR 15:1929. Faster than torch's: the mask is made in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x, dtype=torch.float32).ge_(self.p).div_(1 - self.p) if self.training else x


class Attention(nn.Module):
    """x + self-attention between the pixels of a feature map B×C×H×W (Vaswani et al. 2017, arXiv:1706.03762).

    Ends in zeros, so that it starts as the identity. In a GAN: Zhang et al. 2018, arXiv:1805.08318.
    """

    def __init__(self, width: int, normal: bool = True) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD) if width % HEAD == 0 else 1
        self.normal = normalisation(width) if normal else nn.Identity()
        self.inputs = Pointwise(width, 3 * width)
        self.output = Pointwise(width, width)
        zero(self.output)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.inputs.each(self.normal(x).flatten(2).mT)
        query, key, value = pixels.unflatten(2, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)  # differentiable twice, for gradient penalties
        seen = self.output.each((weights @ value).transpose(1, 2).flatten(2))
        return x + seen.mT.unflatten(2, x.shape[2:])


class Flow(nn.Module):
    """A learned density of vectors B×D: affine couplings (RealNVP, Dinh et al. 2017, arXiv:1605.08803).

    ``forward(z, labels)`` gives the Gaussian noise B×D that belongs to ``z``, and log |dnoise/dz|, B; ``inverse`` goes
    back. It starts as the identity: the density is a standard Gaussian until it has learned better.
    """

    def __init__(self, size: int, classes: int, width: int, couplings: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(size, classes, width, bool(n % 2)) for n in range(couplings))

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(z), device=z.device)
        for coupling in self.couplings:
            scale, shift = coupling(z, labels)
            z = z * scale.exp() + shift
            total = total + scale.sum(1)
        return z, total

    def inverse(self, noise: Tensor, labels: Tensor) -> Tensor:
        for coupling in reversed(self.couplings):
            scale, shift = coupling(noise, labels)
            noise = (noise - shift) * (-scale).exp()
        return noise


class Coupling(nn.Module):
    """Scale and shift of every other entry of a vector, told by the entries that stay and by the label."""

    mask: Tensor

    def __init__(self, size: int, classes: int, width: int, odd: bool) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.arange(size) % 2 == odd).float(), persistent=False)
        self.first = nn.Linear(size, width)
        self.label = nn.Embedding(classes, width) if classes else None
        self.second = nn.Linear(width, width)
        self.third = zero(nn.Linear(width, 2 * size))

    def forward(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first(z * self.mask)
        if self.label is not None:
            h = h + self.label(labels)
        h = self.third(F.silu(self.second(F.silu(h))))
        scale, shift = h.chunk(2, 1)
        return SCALE * (scale / SCALE).tanh() * (1 - self.mask), shift * (1 - self.mask)
