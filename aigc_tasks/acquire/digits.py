"""The 1,797 scanned 8×8 digits that ship inside scikit-learn (Alpaydin & Kaynak 1998, UCI): nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from aigc_tasks import acquire

FILE = "datasets/data/digits.csv.gz"  # a line each: 64 levels, and which digit it is
INK = 16  # the darkest value: each pixel counts the ink in a 4×4 square of the scan


class Source(acquire.Source):
    kind: Literal["digits"]

    def entries(self, work: Path) -> Iterator[acquire.Entry]:
        package = find_spec("sklearn")  # where it lies; to import it takes ten times as long as all that is done here
        assert package is not None
        table = np.loadtxt(Path(str(package.origin)).parent / FILE, np.uint8, delimiter=",")
        levels = np.round(table[:, :-1] * (255 / INK)).astype(np.uint8).reshape(-1, 1, 8, 8)
        for number, (image, label) in enumerate(zip(levels, table[:, -1], strict=True)):
            yield acquire.Entry(f"{number:04d}", str(label), None, None, image.copy, Path(FILE).name)
