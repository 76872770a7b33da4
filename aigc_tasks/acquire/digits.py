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

    def entries(self, work: Path) -> Iterator[acquire.Entry]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        levels = np.round(digits.images.astype(np.uint8) * (255 / INK)).astype(np.uint8)[:, None]
        for number, (image, label) in enumerate(zip(levels, digits.target, strict=True)):
            yield acquire.Entry(f"{number:04d}", str(label), None, None, image.copy, "digits.csv.gz")
