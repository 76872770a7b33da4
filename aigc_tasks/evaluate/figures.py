"""All figures of a set of images, from features the judge sees in them, each with its interval."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aigc_tasks.errors import UserError
from aigc_tasks.evaluate import Knobs, confidence, quality
from aigc_tasks.features import neighbours

Figures = dict[str, float]
DIGITS = 6  # significant ones that are kept: the last ones depend on the CPU's libraries
ROUNDING = 1e-6  # FID of equal features may be so much


def similarity(images: Tensor, real: Tensor, knobs: Knobs) -> Figures:
    """How near features N×F of some images are to features M×F of real ones: quality and diversity.

    FID and KID take all of both; precision, recall, density and coverage as many of either, without which they compare
    with nothing.
    """
    figures = {"fid": quality.fid(images, real)}
    figures["fid_low"], figures["fid_high"] = confidence.of_fid(figures["fid"], images, real, knobs.seed)
    subsets = knobs.kid_subsets, knobs.kid_subset_size, knobs.seed
    figures["kid"], figures["kid_std"] = quality.kid(images, real, *subsets)
    for name, found in manifold(images, real, knobs).items():
        values = found.cpu().numpy()
        figures |= share(name, values) if values.dtype == bool else mean(name, values, knobs.seed)
    return figures


def plain(images: Tensor, real: Tensor, knobs: Knobs) -> Figures:
    """The same without intervals: resampling costs most of the time."""
    mean, std = quality.kid(images, real, knobs.kid_subsets, knobs.kid_subset_size, knobs.seed)
    figures = {"fid": quality.fid(images, real), "kid": mean, "kid_std": std}
    return figures | {name: float(values.float().mean()) for name, values in manifold(images, real, knobs).items()}


def manifold(images: Tensor, real: Tensor, knobs: Knobs) -> dict[str, Tensor]:
    """Precision, recall, density and coverage, sample by sample, of as many of either by chance."""
    count = min(len(images), len(real))
    k = min(knobs.neighbours, count - 1)
    found = neighbours.manifold(some(images, count, knobs.seed), some(real, count, knobs.seed), k)
    return found._asdict()


def classes(asked: np.ndarray | None, recognised: np.ndarray, count: int, seed: int) -> Figures:
    """Which of ``count`` classes the judge sees; against the asked ones if the model was asked for any."""
    figures: Figures = {"classes_present": len(np.unique(recognised))}
    figures["class_entropy"] = quality.entropy(recognised, count)
    low, high = confidence.of_entropy(recognised, count, seed)
    figures["class_entropy_low"], figures["class_entropy_high"] = low, high
    if asked is not None:
        figures |= share("class_accuracy", asked == recognised)
    return figures


def memorised(name: str, samples: Tensor, test: Tensor, val: Tensor) -> Figures:
    """From distances to training images: the share of suspiciously near samples, beside that of validation images.

    What is suspicious the distances of the test images say.
    """
    figures = share(name, neighbours.suspicious(samples, test).cpu().numpy())
    return figures | {f"{name}_floor": float(neighbours.suspicious(val, test).float().mean())}


def share(name: str, values: np.ndarray) -> Figures:
    """How many of N are true, and the interval."""
    low, high = confidence.of_share(values)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def mean(name: str, values: np.ndarray, seed: int) -> Figures:
    """The mean of values that each sample has for itself, and its interval."""
    low, high = confidence.of_mean(values, seed)
    return {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}


def ratio(fid: float, floor: float, name: str) -> float:
    """FID over its floor; raises ``UserError`` where the floor is nothing but rounding."""
    if floor <= ROUNDING:
        raise UserError(
            f"params.yaml: datasets.{name}.features.kind: to this judge training images are no different from others "
            f"(FID {floor:.1g}), so that there is no ratio to it; use another kind, or look at the data"
        )
    return fid / floor


def some(features: Tensor, count: int, seed: int) -> Tensor:
    """``count`` of the rows, by chance."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:count])
    return features[torch.from_numpy(rows).to(features.device)]


def rounded(figures: Figures) -> Figures:
    return {name: value if isinstance(value, int) else float(f"{value:.{DIGITS}g}") for name, value in figures.items()}
