"""What is known of a source's entries from the last time: what each was, and the stamp it had then."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aigc_tasks.acquire import Entry, raw

STAMPS = ["id", "stamp", "sha256"]


class Read(NamedTuple):
    """What an entry is, from reading it or from knowing that it has not changed."""

    sha256: str
    flaw: str | None
    content: bytes | np.ndarray | None
    is_read: bool


State = tuple[str, str | None, str | None, str, str | None]
"""What makes a row another one: source, label, split, sha256, flaw."""


class Last:
    """The last version: what each entry was, and the stamp it had then."""

    def __init__(self, folder: Path | None, stamps: Path, knobs: dict[str, Any]) -> None:
        table = raw.live(folder) if folder else raw.SCHEMA.empty_table()
        self.places = {id: place for place, id in enumerate(table["id"].to_pylist())}
        names = ("source", "label", "split", "sha256", "flaw")
        self.columns = [table[name].combine_chunks() for name in names]
        self.sizes = table["size"].combine_chunks()
        self.stamps = pa.nulls(len(table), pa.string())
        known = pq.read_table(stamps) if len(table) and stamps.exists() else None
        if known and known.schema.metadata == stamped_with(knobs):  # another source may stamp other things the same
            known = known.take(pc.index_in(table["id"], known["id"]))
            # The folder may have been brought back to an older version than the stamps are of.
            same = pc.equal(known["sha256"], table["sha256"])
            self.stamps = pc.if_else(same, known["stamp"], None).combine_chunks()

    def state(self, id: str) -> State | None:
        place = self.places.get(id)
        return None if place is None else tuple(column[place].as_py() for column in self.columns)

    def size(self, id: str) -> int:
        return self.sizes[self.places[id]].as_py()

    def unchanged(self, entry: Entry) -> Read | None:
        """What the entry is, if its stamp says that it is what it was."""
        place = self.places.get(entry.id)
        if place is None or entry.stamp is None or self.stamps[place].as_py() != entry.stamp:
            return None
        source, _, _, sha256, flaw = (column[place].as_py() for column in self.columns)
        return Read(sha256, None, None, False) if (source, flaw) == (entry.source, None) else None


def stamped_with(knobs: dict[str, Any]) -> dict[bytes, bytes]:
    """What is noted beside the stamps."""
    return {b"source": json.dumps(knobs).encode()}


def keep_stamps(entries: Iterable[dict[str, Any]], path: Path, knobs: dict[str, Any]) -> None:
    """Keep the stamps of what was read, for the next time; what could not be read may be readable then."""
    stamps = raw.Part(path, pa.schema([(name, pa.string()) for name in STAMPS], stamped_with(knobs)))
    for entry in entries:
        if entry.pop("flaw") is None and entry["stamp"] is not None:
            stamps.add(entry)
    stamps.close()
