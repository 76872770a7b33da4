"""Nearest neighbours among features or images: precision, recall, density, coverage, and what was learnt by heart.

Distances are Euclidean, computed on the device of the input, ``BLOCK`` of them at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**23  # 32 MB of float32; the block before is still there while the next is computed
CANDIDATES = 4  # references whose distance is computed again without rounding


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
    """Which generated samples are suspiciously near to a training one: bool N, the training row N, the distance N.

    Near is: nearer than all but ``share`` of the test samples are, or an exact copy. "Nearer" is strict, so that ties
    accuse nobody and at most ``share`` of the test samples themselves would be found near, which is the floor to
    compare with. Copies are named apart because nothing is nearer than a threshold of 0, which is what one gets where
    more than ``share`` of the test samples are in the training set too; only then the floor is higher: their share.
    """
    known, _ = nearest(test, train)
    threshold = known.sort().values[int(share * len(test))]
    apart, rows = nearest(generated, train)
    return (apart < threshold) | (apart == 0), rows, apart


def nearest(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Distance N from each of N×D queries to its nearest of M×D references, and that one's row N.

    A matrix product is much faster than differences but rounds small distances away: it only chooses candidates.
    """
    half_norms = references.square().sum(1) / 2
    found: list[Tensor] = []
    chosen: list[Tensor] = []
    for block in queries.split(rows_together(references)):
        order = torch.addmm(half_norms, block, references.T, alpha=-1)  # (|q - r|² - |q|²) / 2
        candidates = order.topk(min(CANDIDATES, len(references)), largest=False).indices
        apart, best = torch.linalg.vector_norm(block[:, None] - references[candidates], dim=2).min(1)
        found.append(apart)
        chosen.append(candidates.gather(1, best[:, None])[:, 0])
    return torch.cat(found), torch.cat(chosen)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """N×M, by differences: the same two rows give the same bits whichever comes first, and equal rows give 0."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def rows_together(references: Tensor) -> int:
    return max(1, BLOCK // len(references))
