"""Changes by chance to training images. Every draw is from the CPU's generator, wherever the images lie."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import v2

from aigc_tasks.train import Affine, Augmentation, Flip

GROUPS = 8  # of a batch: torchvision draws once for all images it is given together; a call each takes 14 times as long

Change = Callable[[Tensor], Tensor]


def transform(steps: list[Augmentation]) -> list[Change]:
    """Each from uint8 B×C×H×W to the same."""
    return [made(step) for step in steps]


def made(step: Augmentation) -> Change:
    if isinstance(step, Flip):
        return flipped
    if isinstance(step, Affine):
        scale = (1 - step.scale, 1 + step.scale)
        bilinear = v2.InterpolationMode.BILINEAR
        affine = v2.RandomAffine(step.degrees, (step.translate, step.translate), scale, interpolation=bilinear)
        return partial(grouped, affine)
    return partial(grouped, v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue))


def augmented(images: Tensor, changes: list[Change]) -> Tensor:
    """Images uint8 B×C×H×W after one change after the other."""
    for change in changes:
        images = change(images)
    return images


def flipped(images: Tensor) -> Tensor:
    """Every image or its mirror image, each by its own coin."""
    coins = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(coins.to(images.device, non_blocking=True), images.flip(-1), images)


def grouped(change: v2.Transform, images: Tensor) -> Tensor:
    """Up to ``GROUPS`` groups of neighbours in the batch, each changed in its own way."""
    return torch.cat([change(group) for group in images.chunk(GROUPS)])
