"""Bring a data set into ``data/raw/NAME``: a source lists what it offers, ``intake`` reads what is new of it.

One file per kind of source. Each defines ``Source``, the knobs of a data set's ``acquire:`` section, with one method:
``entries(work)`` lists everything the source offers without reading it. ``raw`` is the format of what is brought.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from aigc_tasks.knobs import Knobs

PICTURES = {"jpg", "jpeg", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pnm"}  # endings
KIND = re.compile(r"^class Source\(", re.MULTILINE)


class Entry(NamedTuple):
    """One thing a source offers, not yet read."""

    id: str
    """Its path in the source: relative, '/'-separated, valid Unicode, unique."""
    label: str | None
    split: str | None
    """"train", "val" or "test" where the source has such a division of its own."""
    stamp: str | None
    """Changes whenever the content does (size and time, ETag, CRC); None: it must be read to know."""
    read: Callable[[], bytes | np.ndarray] | None
    """Gives the encoded file, or pixels uint8 C×H×W (C is 1 or 3) where the source holds bare arrays.

    It is called once or never, in any thread, and it may be called after the listing has moved on or ended.
    """
    source: str = ""
    """The archive, shard or file it comes from within the source; empty for a file of its own."""
    flaw: str | None = None
    """Why it must not be read (a link, encrypted, too large …); ``read`` is None then."""
    size: int | None = None
    """Bytes that ``read`` gives, as far as that is known before; so much room is made for it in memory."""


class Source(Knobs, ABC):
    """Where a data set comes from."""

    kind: str
    largest: int = Field(64, gt=0, description="MiB; a larger file is no picture to learn from, and is not read")

    @property
    def limit(self) -> int:
        """``largest`` in bytes."""
        return self.largest << 20

    @abstractmethod
    def entries(self, work: Path) -> Iterator[Entry]:
        """Every entry, in the same order every time: sorted by id wherever that is cheap.

        ``work`` is a scratch folder that survives a kill: downloads resume there. Raises ``UserError``.
        """


def kinds() -> list[str]:
    """The kinds of source there are: the files of this package that define one. None is imported to know."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return [file.stem for file in files if KIND.search(file.read_text(encoding="utf-8"))]


def source(kind: str) -> type[Source]:
    """The knobs of one kind of source."""
    return importlib.import_module(f"{__name__}.{kind}").Source
