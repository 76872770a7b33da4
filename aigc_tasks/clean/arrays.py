"""Read what the clean stage wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigc_tasks.errors import UserError

if TYPE_CHECKING:
    import pandas as pd  # takes half a second, which who only asks for a digest need not wait

SPLITS = ("train", "val", "test")
DIGITS = 18  # of a class's number at most; what is longer is a name made of digits


@dataclass(frozen=True)
class Split:
    """Samples of one split: uint8 N×C×H×W, memory-mapped, and class numbers int64 N (all 0 if unlabelled)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Clean:
    """A cleaned data set. ``classes`` names the classes in order of their numbers; empty if unlabelled."""

    classes: list[str]
    train: Split
    val: Split
    test: Split

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def in_order(labels: set[str]) -> list[str]:
    """Class names in a fixed order: by number where all are numbers, else by spelling."""
    numbers = all(label.isdecimal() and len(label) <= DIGITS for label in labels)
    return sorted(labels, key=lambda label: (int(label), label)) if numbers else sorted(labels)


def keys(hashes: pd.Series) -> pd.Series:
    """The first 64 bits of hashes in hex, 0 where there is none: to find equal ones takes a tenth of the memory."""
    import pandas as pd

    numbers = (int(one[:16], 16) if isinstance(one, str) else 0 for one in hashes)
    return pd.Series(np.fromiter(numbers, np.uint64, len(hashes)), hashes.index)


def load(folder: Path) -> Clean:
    """The arrays and labels in ``folder``; raises ``UserError`` if they are not there."""
    import pandas as pd

    try:
        manifest = pd.read_parquet(folder / "manifest.parquet")
        images = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in SPLITS}
    except (FileNotFoundError, ValueError):
        raise UserError(f"{folder}: not a cleaned data set; run `dvc repro clean@{folder.name}`") from None
    kept = manifest[manifest["split"].notna()]
    classes = in_order(set(kept["label"].dropna()))
    numbers = kept["label"].map({name: number for number, name in enumerate(classes)}).fillna(0).astype(np.int64)

    def split(name: str) -> Split:
        rows = kept["split"] == name
        return Split(images[name], numbers[rows].to_numpy()[np.argsort(kept["row"][rows].to_numpy())])

    return Clean(classes, split("train"), split("val"), split("test"))


def digest(folder: Path) -> str:
    """Of the version of the raw data set that was cleaned."""
    return str(json.loads((folder / "report.json").read_text())["digest"])


def counts(folder: Path) -> dict[str, int]:
    """Samples per split, from the report."""
    report = json.loads((folder / "report.json").read_text())
    return {split: report["splits"][split] for split in SPLITS}
