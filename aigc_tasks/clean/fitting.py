"""A picture of any size as a square of the size asked for."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from aigc_tasks.clean import Knobs
from aigc_tasks.clean.decoding import GAP

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "area": Image.Resampling.BOX}
SCALE = 64  # pixels of the longer side at which a smart crop looks for edges


def fitted(picture: Image.Image, knobs: Knobs) -> Image.Image:
    """``picture`` (mode L or RGB) as a square of ``knobs.size`` pixels a side, antialiased; as it is without a size."""
    if knobs.size is None or picture.size == (knobs.size, knobs.size):
        return picture
    square, resample = (knobs.size, knobs.size), FILTERS[knobs.resample]
    if knobs.crop == "pad":
        return ImageOps.pad(picture, square, resample)
    box = (0.0, 0.0, float(picture.width), float(picture.height))
    if knobs.crop != "stretch":
        x, y = (0.5, 0.5) if knobs.crop == "centre" else busiest(picture)
        side = min(picture.size)
        left, top = x * (picture.width - side), y * (picture.height - side)
        box = (left, top, left + side, top + side)
    return picture.resize(square, resample, box, reducing_gap=GAP)


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
