"""Bring a data set's files into ``data/raw/NAME``, and read them back one sample at a time.

One file per kind of source. Each defines ``Source``, the knobs of a data set's ``acquire:`` section, with two methods:
``fetch(folder)`` writes the source's files as they come, and ``samples(folder)`` yields what is in them.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aigc_tasks.knobs import Knobs


class Sample(NamedTuple):
    """One raw sample: a grey or colour picture as uint8 1×H×W or 3×H×W, and what its source says of it."""

    id: str
    source: str  # the file it came from, relative to the raw folder
    label: str | None
    split: str | None  # "train", "val" or "test" where the source has such a division of its own
    image: np.ndarray | None
    flaw: str | None = None  # why it cannot be used; there is no image then


class Source(Knobs, ABC):
    """Where a data set comes from."""

    kind: str

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Write the source's files into the empty ``folder``; raises ``UserError`` if they cannot be had."""

    @abstractmethod
    def samples(self, folder: Path) -> Iterator[Sample]:
        """Every sample in ``folder``, in an order that depends on the files' content alone."""


def kinds() -> list[str]:
    """The kinds of source there are: the files of this package."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def source(kind: str) -> type[Source]:
    """The knobs of one kind of source."""
    return importlib.import_module(f"{__name__}.{kind}").Source
