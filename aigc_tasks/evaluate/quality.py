"""FID and KID of generated samples against real ones, in features of both; and what is said of recognised classes.

FID: Heusel et al. 2017, arXiv:1706.08500. KID: Bińkowski et al. 2018, arXiv:1801.01401. Both by torchmetrics,
but for the FID of many features, of which torchmetrics takes the eigenvalues of a product that is not symmetric.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save", UserWarning)


WIDE = 256  # features beyond which torchmetrics' FID takes long: of 2048 a minute and more


class Given(nn.Identity):
    """In the place of torchmetrics' feature network: the features are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width  # torchmetrics asks for it


def fid(generated: Tensor, real: Tensor) -> float:
    """Fréchet distance between features N×D and M×D; 0 for equal Gaussians, unbounded; falls as N and M grow."""
    if real.shape[1] > WIDE:
        return wide_fid(generated, real)
    metric = FrechetInceptionDistance(feature=Given(real.shape[1]))
    feed(metric, generated, real)
    return float(metric.compute())


def wide_fid(generated: Tensor, real: Tensor) -> float:
    """The same of many features.

    With centred sets A and B, Σ₁ = AᵀA / (N-1) and Σ₂ = BᵀB / (M-1), tr (Σ₁Σ₂)^½ is the sum of the singular values of
    A·Bᵀ, over the roots of (N-1) and (M-1). Of sets larger than D their triangular factors, D×D, say the same.
    """
    gap = generated.double().mean(0) - real.double().mean(0)
    sets = [(x.double() - x.double().mean(0)) / (len(x) - 1) ** 0.5 for x in (generated, real)]
    traces = sum(float(x.square().sum()) for x in sets)
    if min(map(len, sets)) > real.shape[1]:
        sets = [torch.linalg.qr(x, mode="r").R for x in sets]
    shared = torch.linalg.svdvals(sets[0] @ sets[1].T).sum()
    return float(gap.square().sum()) + traces - 2 * float(shared)


def kid(generated: Tensor, real: Tensor, subsets: int, size: int, seed: int) -> tuple[float, float]:
    """Kernel distance (squared MMD, cubic kernel): its mean and standard deviation over random subsets."""
    size = min(size, len(generated), len(real))
    metric = KernelInceptionDistance(feature=Given(real.shape[1]), subsets=subsets, subset_size=size)
    feed(metric, generated, real)
    torch.manual_seed(seed)
    mean, spread = metric.compute()
    return float(mean), float(spread)


def feed(metric: FrechetInceptionDistance | KernelInceptionDistance, generated: Tensor, real: Tensor) -> None:
    metric.to(real.device)
    metric.update(real, real=True)
    metric.update(generated, real=False)


def entropy(classes: np.ndarray, count: int) -> float:
    """Entropy of the recognised classes as a share of its maximum, log ``count``: 1 when all are equally frequent."""
    shares = np.bincount(classes, minlength=count) / len(classes)
    seen = shares[shares > 0]
    return float((0 - (seen * np.log(seen)).sum()) / np.log(count)) if count > 1 else 1.0  # 0 -: of one class -0 else
