"""Nearest neighbours among features or images: precision, recall, density, coverage, and what was learnt by heart.

Distances are Euclidean, computed on the device of the input, ``BLOCK`` of them at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**23  # 32 MB of float32; the block before is still there while the next is computed
CANDIDATES = 4  # references whose distance is computed again without rounding
NEXT = 50  # nearest ones but the very nearest that say what distances are usual about a sample


class Manifold(NamedTuple):
    """What k-nearest-neighbour balls say of N generated and M real samples, sample by sample; means are the figures.

    ``precision`` and ``recall``: Kynkäänniemi et al. 2019, arXiv:1904.06991; both grow with the number of samples whose
    balls are laid, so that they compare at N = M only. ``density`` and ``coverage``: Naeem et al. 2020,
    arXiv:2002.09797. Balls are open, as in the latter's own code: a sample on the edge is outside.
    """

    precision: Tensor  # bool N: the generated sample lies in the ball of some real one
    recall: Tensor  # bool M: the real sample lies in the ball of some generated one
    density: Tensor  # float N, 0…M/k: real balls the generated sample lies in, over k
    coverage: Tensor  # bool M: the real sample's own ball holds a generated one


def manifold(generated: Tensor, real: Tensor, k: int) -> Manifold:
    """Compare generated N×D with real M×D; a sample's ball reaches to its k-th nearest neighbour in its own set."""
    real_radii, generated_radii = radii(real, k), radii(generated, k)
    recall = coverage = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    density = []
    size = rows_together(real)
    for samples, reach in zip(generated.split(size), generated_radii.split(size), strict=True):
        apart = distances(samples, real)
        inside = apart < real_radii
        density.append(inside.sum(1) / k)
        coverage = coverage | inside.any(0)
        recall = recall | (apart < reach[:, None]).any(0)
    counts = torch.cat(density)
    return Manifold(counts > 0, recall, counts, coverage)


def radii(points: Tensor, k: int) -> Tensor:
    """Distance M from each of M×D points to the k-th nearest other one, k < M; equal points are other points."""
    found = [
        distances(block, points).topk(k + 1, largest=False).values[:, k]  # the nearest of all is the point itself
        for block in points.split(rows_together(points))
    ]
    return torch.cat(found)


def memorised(generated: Tensor, train: Tensor, test: Tensor, share: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    """Which generated samples are suspiciously near to a training one: bool N, the training row N, the distance N."""
    apart, rows = nearest(generated, train)
    return suspicious(apart, nearest(test, train)[0], share), rows, apart


def suspicious(apart: Tensor, known: Tensor, share: float = 0.01) -> Tensor:
    """Which of N samples are nearer to a training one than all but ``share`` of M test samples are, or exact copies.

    "Nearer" is strict, so that ties accuse nobody and at most ``share`` of the test samples themselves would be found
    near, which is the floor to compare with. Copies are named apart because nothing is nearer than a threshold of 0,
    which is what one gets where more than ``share`` of the test samples are in the training set too; only then the
    floor is higher: their share.
    """
    return (apart < known.sort().values[int(share * len(known))]) | (apart == 0)


def relative(apart: Tensor) -> Tensor:
    """Of each of N samples the distance to the nearest over the mean distance to the next ones, from ``closest`` N×k.

    As Carlini et al. 2023 (arXiv:2301.13188, section 4.2) tell copies: a blurred image is near to everything and to
    nothing in particular, about 1; a copy is far nearer to one image than to any other, about 0.
    """
    return apart[:, 0] / apart[:, 1:].mean(1).clamp_min(1e-12)  # 0 / 0 is an exact copy


def telling(apart: Tensor, rows: Tensor, plain: Tensor) -> Tensor:
    """The same of samples that may be accused: endless for what shows of the nearest no more than a plain picture does.

    Nearly flat samples are far nearer to the flattest of the references than to the next, and no copies of it. From
    ``closest`` N×k and its rows, and of all M references the ``contrast``.
    """
    nearest = apart[:, 0]
    return relative(apart).where((nearest < plain[rows[:, 0]]) | (nearest == 0), torch.inf)


def contrast(images: Tensor, channels: int) -> Tensor:
    """How far each of M×D images, one channel after the other, is from a plain picture in its own mean colour."""
    planes = images.unflatten(1, (channels, -1))
    return (planes.var(2, correction=0).sum(1) * planes.shape[2]).sqrt()


def nearest(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Distance N from each of N×D queries to its nearest of M×D references, and that one's row N."""
    apart, rows = closest(queries, references, CANDIDATES)
    return apart[:, 0], rows[:, 0]


def closest(queries: Tensor, references: Tensor, count: int = NEXT + 1) -> tuple[Tensor, Tensor]:
    """Distances N×count from each of N×D queries to its nearest of M×D references, ascending, and their rows N×count.

    A matrix product is much faster than differences but rounds small distances away: it only chooses candidates.
    """
    half_norms, count = references.square().sum(1) / 2, min(count, len(references))
    found: list[Tensor] = []
    chosen: list[Tensor] = []
    together = min(rows_together(references), max(1, BLOCK // (count * references.shape[1])))
    for block in queries.split(together):
        order = torch.addmm(half_norms, block, references.T, alpha=-1)  # (|q - r|² - |q|²) / 2
        candidates = order.topk(count, largest=False).indices
        apart, ranks = torch.linalg.vector_norm(block[:, None] - references[candidates], dim=2).sort(stable=True)
        found.append(apart)
        chosen.append(candidates.gather(1, ranks))
    return torch.cat(found), torch.cat(chosen)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """N×M, by differences: the same two rows give the same bits whichever comes first, and equal rows give 0."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def rows_together(references: Tensor) -> int:
    return max(1, BLOCK // len(references))
