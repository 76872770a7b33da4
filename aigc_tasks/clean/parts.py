"""The results of looking at a chunk, which lie in three files, and all of a data set's chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from aigc_tasks import layout
from aigc_tasks.clean import profile


def files(path: Path) -> tuple[Path, Path, Path]:
    """Pixels, embeddings and table of one chunk; the table is written last."""
    return path.with_suffix(".npy"), path.with_suffix(".embedding.npy"), path.with_suffix(".parquet")


def save(path: Path, array: np.ndarray) -> None:
    """``np.save``, whole or not at all. NumPy's own does not say that a disk is full in a way that can be explained."""
    with layout.written(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)


class Parts:
    """The arrays that belong to the rows of a table, each row in its chunk and at its place there."""

    def __init__(self, paths: list[Path], chunk: np.ndarray, place: np.ndarray) -> None:
        self.paths, self.chunk, self.place = paths, chunk, place

    def pixels(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows in portions, each with its pixels, uint8 N×C×H×W; every chunk is read once."""
        return self.arrays(rows, lambda path: files(path)[0])

    def embeddings(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows in portions, each with its embeddings, float32 N×D."""
        return self.arrays(rows, lambda path: files(path)[1])

    def embedding(self, rows: np.ndarray) -> np.ndarray:
        """float32 N×D of some rows, in their order, which is ascending."""
        whole = np.empty((len(rows), profile.DIMENSIONS), np.float32)
        for some, found in self.embeddings(rows):
            whole[np.searchsorted(rows, some)] = found
        return whole

    def arrays(self, rows: np.ndarray, file: Callable[[Path], Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = np.asarray(rows)
        rows = rows[np.argsort(self.chunk[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(self.chunk[rows], prepend=-1))
        for some in np.split(rows, starts[1:]) if len(rows) else []:
            yield some, np.load(file(self.paths[self.chunk[some[0]]]), mmap_mode="r")[self.place[some]]
