"""FID and KID of images against real ones, in the features of the data set's judge.

FID: Heusel et al. 2017, arXiv:1706.08500. KID: Bińkowski et al. 2018, arXiv:1801.01401. Both by torchmetrics.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from aigc_tasks.features.judge import CHUNK, Judge

warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save", UserWarning)


def fid(judge: Judge, images: np.ndarray, real: np.ndarray) -> float:
    """Fréchet distance between the judge's features of two sets of uint8 N×C×H×W; 0 for equal Gaussians, unbounded."""
    metric = FrechetInceptionDistance(feature=judge, normalize=False)
    feed(metric, images, real)
    return float(metric.compute())


def kid(judge: Judge, images: np.ndarray, real: np.ndarray, subsets: int, size: int, seed: int) -> tuple[float, float]:
    """Kernel distance (squared MMD, cubic kernel): its mean and standard deviation over random subsets."""
    size = min(size, len(images), len(real))
    metric = KernelInceptionDistance(feature=judge, subsets=subsets, subset_size=size, normalize=False)
    feed(metric, images, real)
    torch.manual_seed(seed)
    mean, spread = metric.compute()
    return float(mean), float(spread)


def feed(metric: FrechetInceptionDistance | KernelInceptionDistance, images: np.ndarray, real: np.ndarray) -> None:
    metric.to(next(metric.inception.parameters()).device)
    for pictures, is_real in ((real, True), (images, False)):
        for at in range(0, len(pictures), CHUNK):
            metric.update(torch.from_numpy(np.array(pictures[at : at + CHUNK])).to(metric.device), real=is_real)


def entropy(classes: np.ndarray, count: int) -> float:
    """Entropy of the recognised classes as a share of its maximum, log ``count``: 1 when all are equally frequent."""
    shares = np.bincount(classes, minlength=count) / len(classes)
    seen = shares[shares > 0]
    return float(-(seen * np.log(seen)).sum() / np.log(count)) if count > 1 else 1.0
