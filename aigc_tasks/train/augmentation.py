"""Changes by chance to training images, by torchvision's transforms v2."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2

from aigc_tasks.train import Affine, Augmentation, Colour

GROUPS = 8  # of a batch: torchvision draws once for all images it is given together, and a call per image is slow


def transform(steps: list[Augmentation]) -> v2.Transform | None:
    """uint8 N×C×H×W to the same; None if there is nothing to change."""
    return v2.Compose([made(step) for step in steps]) if steps else None


def made(step: Augmentation) -> v2.Transform:
    if isinstance(step, Affine):
        scale = (1 - step.scale, 1 + step.scale)
        return v2.RandomAffine(
            step.degrees, (step.translate, step.translate), scale, interpolation=v2.InterpolationMode.BILINEAR
        )
    if isinstance(step, Colour):
        return v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue)
    return v2.RandomHorizontalFlip()


def augmented(images: Tensor, change: v2.Transform | None) -> Tensor:
    """Images uint8 B×C×H×W, changed in up to ``GROUPS`` groups of neighbours in the batch, each in its own way."""
    if change is None:
        return images
    return torch.cat([change(group) for group in images.chunk(GROUPS)])
