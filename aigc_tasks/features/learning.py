"""How a judge learns: from labels, or without them from what two views of an image have in common."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_tasks.clean.arrays import Split
from aigc_tasks.features import Knobs
from aigc_tasks.progress import progress

PROJECTED = 128  # dimensions that two views are compared in
REDUNDANCY = 0.01  # weight of unlike dimensions' correlation
TURN, ZOOM, SHIFT, TINT = 0.2, 0.25, 0.2, 0.3  # how far views differ: radians, shares of the size, of the range


def supervised(features: nn.Module, logits: nn.Module, data: Split, knobs: Knobs, name: str) -> None:
    """Cross-entropy of the labels; where the trunk has nothing to learn, only the classifier on top of it does."""
    device = next(logits.parameters()).device
    labels = torch.from_numpy(data.labels).to(device)

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(logits(features(images)), labels[rows])

    descend([*trainable(features), *logits.parameters()], loss, data, knobs, name, device)


def selfsupervised(features: nn.Module, data: Split, knobs: Knobs, name: str, device: torch.device) -> None:
    """Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230): two views of an image correlate in each dimension, and
    different dimensions do not."""
    width = int(features.width)  # type: ignore[arg-type]
    projector = nn.Sequential(nn.Linear(width, PROJECTED), nn.ReLU(), nn.Linear(PROJECTED, PROJECTED)).to(device)

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        first, second = (standardised(projector(features(view(images)))) for _ in range(2))
        correlation = first.T @ second / len(images)
        same = torch.eye(PROJECTED, device=device)
        miss = (correlation - same).square()
        return (miss * same).sum() + REDUNDANCY * (miss * (1 - same)).sum()

    descend([*trainable(features), *projector.parameters()], loss, data, knobs, name, device)


def descend(
    parameters: list[nn.Parameter],
    loss: Callable[[Tensor, Tensor], Tensor],
    data: Split,
    knobs: Knobs,
    name: str,
    device: torch.device,
) -> None:
    """Adam on random batches of uint8 images; the learning rate falls on a half cosine."""
    images = torch.from_numpy(np.array(data.images)).to(device)
    optimiser = torch.optim.Adam(parameters, knobs.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, knobs.steps)
    with progress(f"features {name}", knobs.steps) as update:
        for step in range(knobs.steps):
            rows = torch.randint(len(images), (knobs.batch,), device=device)
            value = loss(images[rows], rows)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            schedule.step()
            update(step + 1, "")


def trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def standardised(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / (values.std(0) + 1e-5)


def view(images: Tensor) -> Tensor:
    """uint8 B×C×H×W seen a little turned, nearer or farther, from aside and in other light; still 0…255, as floats."""
    count, device = len(images), images.device
    turn, zoom, right, down = (torch.rand(4, count, device=device) * 2 - 1) * torch.tensor(
        [[TURN], [ZOOM], [SHIFT], [SHIFT]], device=device
    )
    cos, sin = turn.cos() * (1 + zoom), turn.sin() * (1 + zoom)
    places = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(places, list(images.shape), align_corners=False)
    seen = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    contrast, light = (torch.rand(2, count, 1, 1, 1, device=device) * 2 - 1) * TINT
    return ((seen - 127.5) * (1 + contrast) + 127.5 * (1 + light)).clamp(0, 255)
