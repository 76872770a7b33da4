"""95 % intervals: of shares Wilson's, of the rest by resampling (the bootstrap, Efron & Tibshirani 1993).

They say how far a figure would move with other samples of the same number from the same model (and, for FID, other real
images); not how far it would move with another training.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import scipy.stats
from torch import Tensor

from aigc_tasks.evaluate import quality

TAILS = (0.025, 0.975)
NORMAL = 1.959964  # standard deviations that 95 % of a Gaussian lie within
WIDE = 256  # features at most whose FID is resampled as it is: the cost grows with their number's cube
FEW = 100  # resamples where there are more


def of_share(found: np.ndarray) -> tuple[float, float]:
    """Wilson's score interval (1927, JASA 22:209) of the share of N that are true; at 0 and 1, too, it has a width."""
    return wilson(float(found.mean()), len(found))


def wilson(share: float, count: int) -> tuple[float, float]:
    squared = NORMAL**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = NORMAL / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # the share is within, rounded too


def of_mean(values: np.ndarray, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """Percentile interval of the mean of N values that are no shares: of no width if all are equal."""
    rng = np.random.default_rng(seed)
    means = [rng.choice(values, len(values)).mean() for _ in range(resamples)]
    low, high = np.quantile(means, TAILS)
    return float(low), float(high)


def of_entropy(classes: np.ndarray, count: int, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """Interval of what ``quality.entropy``, 0…1, is expected to be with N samples' class numbers."""
    rng = np.random.default_rng(seed)
    resampled = [quality.entropy(rng.choice(classes, len(classes)), count) for _ in range(resamples)]
    low, high = recentred(quality.entropy(classes, count), resampled)
    return max(low, 0.0), min(high, 1.0)


def of_fid(figure: float, generated: Tensor, real: Tensor, seed: int, resamples: int = 400) -> tuple[float, float]:
    """Interval of the FID that was measured between features N×D and M×D, both resampled.

    It covers what FID is expected to be with N and M samples, the value that repetitions scatter about, comparable with
    any other FID of N and M. With infinitely many samples FID would be lower, and outside. In simulations the intervals
    covered it in 92…99 % of cases where the distributions differ; where they are equal they are twice too wide.

    Of more than ``WIDE`` features that many principal components are resampled, ``FEW`` times: all would cost hours.
    That makes the interval narrower by less than a tenth where deviations fall as fast as a network's features' do
    (simulated: as rank^-0.7 and faster); where they hardly fall by half, and it is still wider than the scatter.
    """
    rng = np.random.default_rng(seed)
    centre = real.mean(0)  # a common offset would cost the covariances digits
    sets = [(features - centre).cpu().numpy() for features in (generated, real)]
    if real.shape[1] > WIDE:
        sets, resamples = leading(sets), min(resamples, FEW)
    sets = [features.astype(np.float64) for features in sets]
    resampled = [
        frechet(*(moments(features, drawn(len(features), rng)) for features in sets)) for _ in range(resamples)
    ]
    low, high = recentred(figure, resampled)
    return max(low, 0.0), high


def of_difference(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Mean of the first figures minus that of the second, and its interval (Welch 1947, Biometrika 34)."""
    test = scipy.stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(0.95)
    return float(np.mean(first) - np.mean(second)), float(interval.low), float(interval.high)


def leading(sets: list[np.ndarray]) -> list[np.ndarray]:
    """Sets of features in the ``WIDE`` directions in which all together vary most."""
    together = np.concatenate(sets)
    together = together - together.mean(0)
    width = together.shape[1]
    _, directions = scipy.linalg.eigh(together.T @ together, subset_by_index=(width - WIDE, width - 1))
    return [features @ directions for features in sets]


def recentred(figure: float, resampled: list[float]) -> tuple[float, float]:
    """Percentile interval, moved so that the resampled figures scatter about the measured one.

    Resampling repeats samples and misses others: to FID and to an entropy that looks like a further difference, the
    same bias once more that drawing the samples had.
    """
    low, high = figure + np.quantile(resampled, TAILS) - np.mean(resampled)
    return float(low), float(high)


def drawn(count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of ``count`` samples occurs in as many draws with replacement."""
    return np.bincount(rng.integers(count, size=count), minlength=count)


def moments(features: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean D and unbiased covariance D×D of features N×D, each counted so many times."""
    count = times.sum()
    mean = times @ features / count
    return mean, ((features.T * times) @ features - count * np.outer(mean, mean)) / (count - 1)


def frechet(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½) of two Gaussians' moments.

    With Σ₁ = R·Rᵀ, the eigenvalues of Σ₁Σ₂ are those of the symmetric RᵀΣ₂R, which are real and soon found.
    """
    (mean, covariance), (other_mean, other_covariance) = first, second
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0))  # rounding makes zeros negative
    shared = np.sqrt(np.linalg.eigvalsh(root.T @ other_covariance @ root).clip(0)).sum()
    return float(((mean - other_mean) ** 2).sum() + np.trace(covariance + other_covariance) - 2 * shared)
