"""The step that chooses among samples: how many to draw, what each is worth, which to keep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aigc_tasks.features import neighbours
from aigc_tasks.postprocess import Reject

NEIGHBOUR = 3  # Kynkäänniemi et al. 2019
CHUNK = 1000  # points whose distances to as many others are in memory together
CPU = torch.device("cpu")


def drawn(wanted: np.ndarray, steps: Sequence[Reject]) -> np.ndarray:
    """How many samples of every class to draw, so that ``wanted`` are left when each step has dropped its share."""
    counts = wanted
    for step in reversed(steps):
        exact = counts / (1 - step.share)
        counts = np.ceil(np.round(exact, 9)).astype(np.int64)  # 1 / (1 - 0.9) is a little more than 10
    return counts


def keep(scores: np.ndarray, labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Row numbers, ascending, of the ``wanted`` samples of every class with the highest scores; of equals the first."""
    own = [np.flatnonzero(labels == label) for label in range(len(wanted))]
    best = [rows[np.argsort(-scores[rows], kind="stable")[:count]] for rows, count in zip(own, wanted, strict=True)]
    return np.sort(np.concatenate(best))


def realism(features: np.ndarray, real: np.ndarray) -> np.ndarray:
    """How real each of N samples looks: features N×D against M×D of real images, N numbers, 1 and more is convincing.

    Kynkäänniemi et al. 2019 (arXiv:1904.06991), section 5: the greatest of radius / distance over the real points. A
    point's radius reaches to its third neighbour; the half with the larger radii are outliers and do not count.
    """
    points = floats(real)
    within = neighbours.radii(points, min(NEIGHBOUR, len(points) - 1))
    dense = within <= within.median()
    points, radii = points[dense], within[dense]
    scores = [(radii / torch.cdist(some, points).clamp_min(1e-12)).amax(1) for some in floats(features).split(CHUNK)]
    return torch.cat(scores).numpy()


def originality(samples: np.ndarray, train: np.ndarray, val: np.ndarray, device: torch.device = CPU) -> np.ndarray:
    """Of each of N samples how near it is to a training image if it is a copy, else infinity.

    Distances in pixels are relative to those to the next training images, so that a blurred sample, which is near to
    all of them, is no copy; nor is one that is no nearer than a plain picture would be. A copy is nearer than all but
    1 % of the validation images are, which nobody has copied.
    """
    known = floats(train).to(device)
    near = neighbours.telling(
        *neighbours.closest(floats(samples).to(device), known), neighbours.contrast(known, train.shape[1])
    )
    usual = neighbours.relative(neighbours.closest(floats(val).to(device), known)[0])
    return np.where(neighbours.suspicious(near, usual).cpu().numpy(), near.cpu().numpy(), np.inf)


def floats(points: np.ndarray) -> Tensor:
    """N×… of any number type as float32 N×D."""
    return torch.from_numpy(np.array(points, np.float32)).flatten(1)
