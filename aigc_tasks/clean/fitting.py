"""A picture of any size as a square of the size asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from aigc_tasks.clean import Knobs
from aigc_tasks.clean.decoding import GAP, NO_MARGINS

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}
SCALE = 64  # pixels of the longer side at which a smart crop looks for edges


def fitted(picture: Image.Image, knobs: Knobs, margins: Sequence[float] = NO_MARGINS) -> Image.Image:
    """``picture`` (mode L or RGB) as a square of ``knobs.size`` pixels a side, antialiased; as it is without a size.

    ``margins`` are pixels at its left, top, right and bottom that lie beyond what it shows; they are cut off.
    """
    if knobs.size is None or picture.size == (knobs.size, knobs.size):
        return picture
    left, top, right, bottom = margins
    width, height = picture.width - left - right, picture.height - top - bottom
    if knobs.crop in ("centre", "smart"):
        x, y = (0.5, 0.5) if knobs.crop == "centre" else busiest(picture)
        side = min(width, height)
        left, top = left + x * (width - side), top + y * (height - side)
        width = height = side
    size = knobs.size, knobs.size
    if knobs.crop == "pad":
        longer = max(width, height)
        size = max(1, round(width / longer * knobs.size)), max(1, round(height / longer * knobs.size))
    box = (left, top, left + width, top + height)
    small = picture.resize(size, FILTERS[knobs.resample], box, reducing_gap=GAP)
    return small if small.width == small.height else padded(small, knobs.size)


def padded(picture: Image.Image, side: int) -> Image.Image:
    """In the middle of a black square."""
    square = Image.new(picture.mode, (side, side))
    square.paste(picture, (round((side - picture.width) / 2), round((side - picture.height) / 2)))
    return square


def busiest(picture: Image.Image) -> tuple[float, float]:
    """Where the largest square with most edges lies, as shares of the room it has to move in x and in y."""
    factor = max(1, max(picture.size) // SCALE)
    edges = np.asarray(picture.reduce(factor).convert("L").filter(ImageFilter.FIND_EDGES), np.int64)
    edges = np.pad(edges[1:-1, 1:-1], 1)  # the filter leaves the frame as it is
    side, shares = min(edges.shape), []
    for axis in (0, 1):
        along = np.concatenate([[0], edges.sum(axis=axis).cumsum()])
        inside = along[side:] - along[:-side]
        shares.append(float(inside.argmax() / (len(inside) - 1)) if len(inside) > 1 else 0.5)
    return shares[0], shares[1]
