"""The steps that change pixels: uint8 N×C×H×W in, uint8 N×C×H'×W' out, every image by itself and always the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from PIL import Image, ImageEnhance

from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image
from aigc_tasks.postprocess import Change

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
STRONGEST = 32.0  # grey levels by which patches may differ and still be alike, at strength 1
PATCH, REACH = 1, 3  # pixels about the middle: patches of 3×3, compared within 7×7


def apply(images: np.ndarray, steps: Sequence[Change]) -> np.ndarray:
    """The images after all steps in turn; raises ``UserError``, of no recipe, where a crop is larger than they."""
    for step in steps:
        images = STEPS[step.do](images, **step.model_dump(exclude={"do"}))
    return images


def denoise(images: np.ndarray, strength: float) -> np.ndarray:
    """Non-local means (Buades, Coll and Morel 2005, doi:10.1109/CVPR.2005.38): edges and strokes keep their contrast.

    A pixel becomes the mean of the pixels around it, weighted by how alike the patches about the two are. Total
    variation was tried and takes more from the one-pixel strokes of 8×8 digits than from their noise.
    """
    if strength == 0:
        return images
    height, width = images.shape[2:]
    margin = REACH + PATCH
    ground = np.pad(images.astype(np.float32), ((0, 0), (0, 0), (margin, margin), (margin, margin)), "reflect")

    def moved(down: int, right: int) -> np.ndarray:
        """The images and a border of half a patch, as seen from ``down`` and ``right`` of each pixel."""
        top, left = REACH + down, REACH + right
        return ground[:, :, top : top + height + 2 * PATCH, left : left + width + 2 * PATCH]

    around = range(-REACH, REACH + 1)
    total, weights = np.zeros(images.shape, np.float32), np.zeros((len(images), 1, height, width), np.float32)
    for down, right in product(around, around):
        other = moved(down, right)
        unlike = patch_means(((other - moved(0, 0)) ** 2).mean(1, keepdims=True))
        weight = np.exp(-unlike / (2 * (STRONGEST * strength) ** 2))
        total += weight * other[:, :, PATCH:-PATCH, PATCH:-PATCH]
        weights += weight
    return np.round(total / weights).astype(np.uint8)


def patch_means(planes: np.ndarray) -> np.ndarray:
    """Means over all patches; half a patch shorter on every side."""
    offsets = range(2 * PATCH + 1)
    rows = np.mean([planes[:, :, at : planes.shape[2] - 2 * PATCH + at] for at in offsets], axis=0)
    return np.mean([rows[..., at : planes.shape[3] - 2 * PATCH + at] for at in offsets], axis=0)


def crop(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """The centre; of an odd rest the larger part is cut at the bottom and at the right."""
    rows, columns = images.shape[2:]
    if height > rows or width > columns:
        raise UserError(
            f"postprocess.steps: cannot crop {height}×{width} from images of {rows}×{columns}; "
            "write a smaller height and width"
        )
    top, left = (rows - height) // 2, (columns - width) // 2
    return images[:, :, top : top + height, left : left + width]


def resize(images: np.ndarray, side: int) -> np.ndarray:
    """The shorter side becomes ``side``; Lanczos over all pixels that fall into a new one."""
    height, width = images.shape[2:]
    shorter = min(height, width)
    shape = round(width * side / shorter), round(height * side / shorter)
    return each(images, lambda picture: picture.resize(shape, Image.Resampling.LANCZOS))


def enhance(images: np.ndarray, contrast: float, sharpness: float) -> np.ndarray:
    """Pillow's factors: away from the mean brightness, then away from the smoothed image."""

    def enhanced(picture: Image.Image) -> Image.Image:
        return ImageEnhance.Sharpness(ImageEnhance.Contrast(picture).enhance(contrast)).enhance(sharpness)

    return each(images, enhanced)


def upscale(images: np.ndarray, factor: int, filter: str) -> np.ndarray:
    height, width = images.shape[2:]
    return each(images, lambda picture: picture.resize((width * factor, height * factor), FILTERS[filter]))


def each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Every image through ``change`` as a picture and back."""
    changed = np.stack([np.asarray(change(image.picture(sample))) for sample in images])
    return changed[:, None] if changed.ndim == 3 else changed.transpose(0, 3, 1, 2)


STEPS: dict[str, Callable[..., np.ndarray]] = {
    "denoise": denoise,
    "crop": crop,
    "resize": resize,
    "enhance": enhance,
    "upscale": upscale,
}
