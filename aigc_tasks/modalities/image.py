"""Images: uint8 N×C×H×W on disk, floats in [-1, 1] in a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FEW = 32  # levels, that an image is rounded to
CHUNK = 1000  # images looked at together
BACKGROUND = 32  # level between the pictures of a grid
GRID_PIXELS = 720  # a grid of small pictures is enlarged to about this width, so that it can be looked at
GRID_HEIGHT = 5 * GRID_PIXELS  # about; of many rows with but one picture or two the width alone would make towers


def coloured(images: np.ndarray, channels: int) -> np.ndarray:
    """uint8 …×1×H×W or …×3×H×W with 1 channel (Pillow's luma of one colour picture) or 3 (a grey one repeated)."""
    if images.shape[-3] == channels:
        return images
    return np.repeat(images, 3, axis=-3) if channels == 3 else np.asarray(picture(images).convert("L"))[None]


def fitted(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 C×H×W as C×``size``×``size``: the largest square around the centre, resized by Lanczos' filter."""
    if image.shape[1:] == (size, size):
        return image
    pixels = np.asarray(ImageOps.fit(picture(image), (size, size), Image.Resampling.LANCZOS))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def encode(images: Any) -> Any:
    """uint8 0…255 to floats in [-1, 1], for NumPy arrays and tensors alike."""
    return images / 127.5 - 1


def decode(images: np.ndarray, levels: Sequence[int] = ()) -> np.ndarray:
    """Floats in [-1, 1] to uint8 0…255, rounded to the nearest level; what lies outside is clipped.

    ``levels``, ascending, are those that there are; by default all 256.
    """
    rounded = np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)
    if not levels:
        return rounded
    between = (np.array(levels[1:], np.int64) + levels[:-1] + 1) // 2  # from where on the next one is nearer
    return np.array(levels, np.uint8)[np.searchsorted(between, np.arange(256), "right")][rounded]


def coarse(images: np.ndarray) -> list[int]:
    """The levels of uint8 images that have few of them, as scans of 16 grey levels and drawings do; of others none.

    A network that draws levels between these can be told from the real images by nothing else.
    """
    there = np.zeros(256, bool)
    for start in range(0, len(images), CHUNK):
        there[images[start : start + CHUNK].ravel()] = True
        if there.sum() > FEW:
            return []
    return np.flatnonzero(there).tolist()


def picture(image: np.ndarray) -> Image.Image:
    """One uint8 C×H×W array as a picture: grey for one channel, RGB for three."""
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """uint8 N×C×H×W in rows of ``columns``, one background pixel apart, enlarged by a whole factor."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), BACKGROUND, np.uint8)
    for number, image in enumerate(images):
        top, left = 1 + number // columns * (height + 1), 1 + number % columns * (width + 1)
        sheet[:, top : top + height, left : left + width] = image
    small = picture(sheet)
    factor = max(1, min(GRID_PIXELS // small.width, GRID_HEIGHT // small.height))
    return small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
