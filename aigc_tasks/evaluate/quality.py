"""FID and KID of generated samples against real ones, in features of both; and what is said of recognised classes.

FID: Heusel et al. 2017, arXiv:1706.08500. KID: Bińkowski et al. 2018, arXiv:1801.01401. Both by torchmetrics.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save", UserWarning)


class Given(nn.Identity):
    """In the place of torchmetrics' feature network: the features are there already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width  # torchmetrics asks for it


def fid(generated: Tensor, real: Tensor) -> float:
    """Fréchet distance between features N×D and M×D; 0 for equal Gaussians, unbounded; falls as N and M grow."""
    metric = FrechetInceptionDistance(feature=Given(real.shape[1]))
    feed(metric, generated, real)
    return float(metric.compute())


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
    return float(-(seen * np.log(seen)).sum() / np.log(count)) if count > 1 else 1.0
