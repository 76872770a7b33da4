"""Pictures: noise, of which each seed gives another, and handwritten digits in class folders, a source that grows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FIRST, GROWN = 120, 170  # pictures
SIZE = (12, 10)  # width and height: not a square, so that a confusion of the two is seen


def noise(seed: int, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture that no other seed gives."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(number: int) -> bytes:
    """A small one, encoded; another one for each number."""
    return encoded(noise(number, size=(9, 8)))


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
