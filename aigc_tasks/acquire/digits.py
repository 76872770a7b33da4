"""The 1,797 scanned 8×8 digits that ship inside scikit-learn (Alpaydin & Kaynak 1998, UCI): nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from aigc_tasks import acquire

INK = 16  # the darkest value: each pixel counts the ink in a 4×4 square of the scan


class Source(acquire.Source):
    kind: Literal["digits"]

    def fetch(self, folder: Path) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        np.save(folder / "images.npy", digits.images.astype(np.uint8))
        np.save(folder / "labels.npy", digits.target.astype(np.uint8))

    def samples(self, folder: Path) -> Iterator[acquire.Sample]:
        images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
        levels = np.round(images * (255 / INK)).astype(np.uint8)[:, None]
        for number, (image, label) in enumerate(zip(levels, labels, strict=True)):
            yield acquire.Sample(f"{number:04d}", "images.npy", str(label), None, image)
