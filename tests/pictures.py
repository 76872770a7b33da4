"""A source that grows: handwritten digits as pictures in class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FIRST, GROWN = 120, 170  # pictures


def draw(place: Path, numbers: range, invert: bool = False) -> None:
    """Some of scikit-learn's digits as pictures in class folders."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = (found.images * 15.9).astype(np.uint8)
    for number in numbers:
        path = place / str(found.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels[number] if invert else pixels[number]).save(path)


def learn_from_a_folder(params: Any) -> None:
    """The recipe draws its data from ``pictures``, beside ``params.yaml``."""
    params["datasets"]["digits"]["acquire"] = {"kind": "folder", "source": "pictures"}
    params["datasets"]["digits"]["clean"] = {"checks": {"near_duplicate": "off"}}
    params["recipes"]["digits-gan"]["postprocess"] = {"count": 60}
