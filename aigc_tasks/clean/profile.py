"""What a cleaned data set is like, in figures: what drift is measured against, small enough to travel with a model.

``profile.npz`` holds the fields of ``Profile`` and nothing that has to be unpickled.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aigc_tasks import layout
from aigc_tasks.errors import UserError

MOST = 5_000  # images that are described one by one: those of the lowest SHA-256, a random sample that hardly changes
CELLS = 8  # of a side, in which an image's brightness is averaged
DIMENSIONS = CELLS * CELLS + 6
LUMA = np.array([19595.0, 38470.0, 7471.0])  # ITU-R BT.601 in parts of 65536, as Pillow has them
BLOCK = 1 << 20  # levels that are worked on at a time: they stay in the processor's cache
FORMAT = {  # field: kind of its elements, dimensions
    "embedding": ("f", 2), "statistics": ("f", 2), "labels": ("i", 1), "classes": ("U", 1), "counts": ("i", 1),
    "digest": ("U", 0), "shas": ("S", 1),
}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """Some images, one row each, and what all of them are: counts and a digest."""

    embedding: np.ndarray
    """float32 M×70 of ``embedding``, 0…1."""
    statistics: np.ndarray
    """float32 M×4: width and height in the file, brightness (mean, 0…255), contrast (standard deviation, 0…127.5)."""
    labels: np.ndarray
    """int64 M, class numbers; all 0 if unlabelled."""
    classes: list[str]
    """Names in order of the class numbers; none if unlabelled."""
    counts: np.ndarray
    """int64, images per class; one number if unlabelled."""
    digest: str
    """Of all images and their labels, whatever their order."""
    shas: list[str]
    """M, SHA-256 of each image's pixels, in hex."""

    def __len__(self) -> int:
        """Images in the data set, described here or not."""
        return max(int(self.counts.sum()), len(self.shas))


def digest(shas: Iterable[str], labels: Iterable[str]) -> str:
    """Of images by their SHA-256, and of their labels: the same images under other labels are other data."""
    pairs = (f"{sha}/{label}".encode() for sha, label in zip(shas, labels, strict=True))
    return f"{sum(int.from_bytes(hashlib.sha256(pair).digest()) for pair in pairs) % 2**256:064x}"


def embedding(images: np.ndarray) -> np.ndarray:
    """uint8 N×C×H×W, C 1 or 3, as float32 N×70 in 0…1: luma averaged over 8×8 areas row by row, then means and standard
    deviations of red, green and blue. A grey image has the same embedding in one channel and in three.
    """
    block = max(1, BLOCK // int(np.prod(images.shape[1:])))
    blocks = [described(images[start : start + block]) for start in range(0, len(images), block)]
    return np.concatenate([np.zeros((0, DIMENSIONS), np.float32), *blocks])


def described(images: np.ndarray) -> np.ndarray:
    """``embedding`` of a few. The sums are whole numbers below 2⁵³, exact in any order: the same on every machine."""
    pixels = images.astype(np.float64)
    count, channels, height, width = pixels.shape
    area = 255 * height * width
    sums = np.broadcast_to(areas(height) @ pixels @ areas(width).T, (count, 3, CELLS, CELLS)).reshape(count, 3, -1)
    flat = pixels.reshape(count, channels, -1)
    mean = sums.sum(axis=2) / (CELLS**2 * area)
    variance = np.vecdot(flat, flat) / (255 * area) - mean**2
    parts = [LUMA @ sums / (LUMA.sum() * area), mean, np.sqrt(np.maximum(variance, 0))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def areas(side: int) -> np.ndarray:
    """CELLS×``side``: how many eighths of each pixel lie in each cell; a cell has ``side`` eighths."""
    cell, pixel = np.arange(CELLS)[:, None] * side, np.arange(side) * CELLS
    return np.clip(np.minimum(cell + side, pixel + CELLS) - np.maximum(cell, pixel), 0, None).astype(np.float64)


def write(path: Path, profile: Profile) -> None:
    """The same profile always gives the same bytes."""
    arrays: dict[str, np.ndarray] = {
        "embedding": profile.embedding.astype(np.float32), "statistics": profile.statistics.astype(np.float32),
        "labels": profile.labels.astype(np.int64), "classes": np.array(profile.classes, np.str_),
        "counts": profile.counts.astype(np.int64), "digest": np.array(profile.digest),
        "shas": np.array(profile.shas, "S64"),
    }  # fmt: skip
    with layout.written(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())  # of 1980, not of now


def read(path: Path) -> Profile:
    """The profile in a file; raises ``UserError`` if there is none."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in FORMAT}
        flaw = flawed(found)
    except FileNotFoundError:
        flaw = "not found"
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        flaw = f"not a profile of a data set ({type(error).__name__})"
    if flaw:
        raise UserError(f"{path}: {flaw}; get it back with `dvc checkout {path.parent}` or make it with `dvc repro`")
    shas = found["shas"].astype(np.str_).tolist()
    return Profile(**{**found, "classes": found["classes"].tolist(), "digest": str(found["digest"]), "shas": shas})


def flawed(found: dict[str, np.ndarray]) -> str | None:
    """What does not fit together, if anything."""
    for name, (kind, dimensions) in FORMAT.items():
        if (found[name].dtype.kind, found[name].ndim) != (kind, dimensions):
            return f"{name} is {found[name].dtype} of {found[name].ndim} dimensions"
    count, classes = len(found["shas"]), len(found["classes"])
    widths = {"embedding": DIMENSIONS, "statistics": 4}
    if any(found[name].shape != (count, width) for name, width in widths.items()) or len(found["labels"]) != count:
        return "its arrays are not of one length"
    if not count or len(found["counts"]) != max(classes, 1) or not (found["labels"] >= 0).all():
        return "it describes no images, or classes that are not counted"
    if found["labels"].max() >= len(found["counts"]) or found["counts"].min() < 0:
        return "it numbers classes that it does not name"
    if not all(np.isfinite(found[name]).all() for name in widths):
        return "it holds what is no number"
    return None
