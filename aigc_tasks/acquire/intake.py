"""Bring ``data/raw/NAME`` up to date with its source: only what is new or changed is read, only that is written.

What an entry was when it was last read is known by its stamp, kept in this checkout. A killed intake goes on after the
last finished part: beside each part lies a journal of the entries up to its end, and as long as the source still lists
the same, they are not read again. Which rows end up in which file depends on the source and the last version alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aigc_tasks import layout
from aigc_tasks.acquire import Entry, Source, archives, raw
from aigc_tasks.errors import UserError
from aigc_tasks.progress import progress

THREADS = 16  # reads at a time: many sources are far away
AHEAD, AHEAD_BYTES = 64, 64 << 20  # entries and bytes read before it is their turn to be written
LISTED = ["id", "source", "label", "split", "stamp", "listed"]  # an entry as it is listed; the last one is its flaw
LAST_JOURNAL = "journal-last.parquet"  # of what did not fill a part
STAMPS = ["id", "stamp", "sha256", "flaw"]
JOURNAL = pa.schema([(name, pa.string()) for name in (*LISTED, "sha256", "flaw", "change")] + [("read", pa.bool_())])


class Read(NamedTuple):
    """What an entry is, from reading it or from knowing that it has not changed."""

    sha256: str
    flaw: str | None
    content: bytes | np.ndarray | None
    is_read: bool


State = tuple[str, str | None, str | None, str, str | None]
"""What makes a row another one: source, label, split, sha256, flaw."""


def take_in(source: Source, folder: Path, work: Path) -> str:
    """Bring ``folder`` up to date and say in one line what was done; raises ``UserError``.

    ``work`` keeps the stamps, and what a killed run had finished. If the source's knobs are others than last time, the
    versions begin again.
    """
    knobs = source.model_dump(mode="json")
    past = history(folder, knobs)
    last = Last(folder if past else None, work / "stamps.parquet")
    unfinished = Unfinished(work / "unfinished", {"source": knobs, "versions": past})
    done = unfinished.resume(source.entries(work))
    seen: set[str] = set()
    with progress(f"acquire {folder.name}", len(last.places)) as update:
        rest = (entry for entry in unique(source.entries(work), seen) if entry.id not in done)
        for count, (entry, read) in enumerate(contents(rest, last), len(done) + 1):
            unfinished.add(entry, read, last)
            update(count, "entries")
    if not seen:
        raise UserError(f"{folder.name}: its source is empty; correct datasets.{folder.name}.acquire in params.yaml")
    removed = sorted(last.places.keys() - seen)
    unfinished.close(removed)
    version = {"version": len(past) + 1} | summary(unfinished.journals(), len(removed))
    is_read = version.pop("read")
    keep_stamps(unfinished.journals(), work / "stamps.parquet")
    if version["added"] or version["changed"] or version["removed"]:
        publish(unfinished.parts(), folder, {"source": knobs, "versions": [*past, version]})
    shutil.rmtree(unfinished.folder)
    changes = ", ".join(f"{version[change]:,} {change}" for change in ("added", "changed", "removed"))
    return f"{version['count']:,} entries: {changes}; {is_read:,} read"


def history(folder: Path, knobs: dict[str, Any]) -> list[dict[str, Any]]:
    """The versions that the next one continues: none if the folder is no raw data set, or one of another source."""
    try:
        described = raw.described(folder)
        raw.parts(folder)
    except UserError:
        return []
    return described["versions"] if described.get("source") == knobs else []


class Last:
    """The last version: what each entry was, and the stamp it had then."""

    def __init__(self, folder: Path | None, stamps: Path) -> None:
        table = raw.live(folder) if folder else raw.SCHEMA.empty_table()
        self.places = {id: place for place, id in enumerate(table["id"].to_pylist())}
        names = ("source", "label", "split", "sha256", "flaw")
        self.columns = [table[name].combine_chunks() for name in names]
        self.stamps = pa.nulls(len(table), pa.string())
        if len(table) and stamps.exists():
            known = pq.read_table(stamps)
            known = known.take(pc.index_in(table["id"], known["id"]))
            # The folder may have been brought back to an older version than the stamps are of.
            same = pc.and_(
                pc.equal(known["sha256"], table["sha256"]),
                pc.equal(pc.fill_null(known["flaw"], ""), pc.fill_null(table["flaw"], "")),
            )
            self.stamps = pc.if_else(same, known["stamp"], None).combine_chunks()

    def state(self, id: str) -> State | None:
        place = self.places.get(id)
        return None if place is None else tuple(column[place].as_py() for column in self.columns)

    def unchanged(self, entry: Entry) -> Read | None:
        """What the entry is, if its stamp says that it is what it was."""
        place = self.places.get(entry.id)
        if place is None or entry.stamp is None or self.stamps[place].as_py() != entry.stamp:
            return None
        source, label, split, sha256, flaw = (column[place].as_py() for column in self.columns)
        same = (source, label, split) == (entry.source, entry.label, entry.split)
        return Read(sha256, flaw, None, False) if same else None


def unique(entries: Iterator[Entry], seen: set[str]) -> Iterator[Entry]:
    """The entries, and their ids in ``seen``; a second one of the same name, as archives may hold, has a flaw."""
    copies: Counter[str] = Counter()
    for entry in entries:
        id = entry.id
        while id in seen:
            copies[entry.id] += 1
            id = f"{entry.id} ({copies[entry.id] + 1})"
        seen.add(id)
        yield entry if id == entry.id else entry._replace(id=id, read=None, flaw="has the name of another")


def contents(entries: Iterator[Entry], last: Last) -> Iterator[tuple[Entry, Read]]:
    """Each entry in order with what it is; those that may have changed are read ahead, several at a time."""
    waiting: deque[tuple[Entry, Read | Future[Read]]] = deque()
    lock, held = Lock(), 0  # bytes that were read and not yet taken

    def fetch(entry: Entry) -> Read:
        nonlocal held
        read = fetched(entry)
        with lock:
            held += raw.size_of(read.content)
        return read

    def take() -> tuple[Entry, Read]:
        nonlocal held
        entry, read = waiting.popleft()
        if isinstance(read, Future):
            read = read.result()
        with lock:
            held -= raw.size_of(read.content)
        return entry, read

    pool = ThreadPoolExecutor(THREADS)
    try:
        for entry in entries:
            known = last.unchanged(entry) if entry.flaw is None else Read("", entry.flaw, None, False)
            waiting.append((entry._replace(read=None), known or pool.submit(fetch, entry)))
            while len(waiting) > AHEAD or (waiting and held > AHEAD_BYTES):
                yield take()
        while waiting:
            yield take()
    finally:
        pool.shutdown(cancel_futures=True)


def fetched(entry: Entry) -> Read:
    assert entry.read is not None
    try:
        content = entry.read()
    except UserError:
        raise
    except Exception as error:  # a damaged archive raises anything
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        return Read("", f"unreadable ({archives.spelled(reason.splitlines()[0][:200])})", None, True)
    return Read(raw.content_hash(content), None, content, True)


class Unfinished:
    """A version in the making: numbered parts, each with a journal of the entries up to its end."""

    def __init__(self, folder: Path, base: dict[str, Any]) -> None:
        """``base`` is the state that the version is built on: what was built on another one is thrown away."""
        self.folder, self.version, self.number = folder, len(base["versions"]) + 1, 0
        begun, text = folder / raw.SOURCE, json.dumps(base)
        if not begun.exists() or begun.read_text() != text:
            shutil.rmtree(folder, ignore_errors=True)
            layout.replace(begun, text)

    def resume(self, listing: Iterator[Entry]) -> set[str]:
        """Keep the full parts as far as the source still lists the same; returns the ids that they account for."""
        done: set[str] = set()
        entries = unique(listing, set())
        for journal in self.journals():
            ids = []
            for row in rows(journal, LISTED):
                entry = next(entries, None)
                if entry is None or listed(entry) != row:
                    break
                ids.append(entry.id)
            else:
                if journal.name != LAST_JOURNAL:
                    done.update(ids)
                    self.number += 1
                    continue
            break
        for file in self.journals()[self.number :] + self.parts()[self.number :]:
            file.unlink()
        self.begin()
        return done

    def begin(self) -> None:
        self.part = raw.Part(self.folder / raw.part_name(self.version, self.number))
        self.journal = raw.Part(self.folder / f"journal-{self.number:06d}.parquet", JOURNAL)

    def add(self, entry: Entry, read: Read, last: Last) -> None:
        """Write down what the entry is, and its content if that is not what it was in the last version."""
        state, before = (entry.source, entry.label, entry.split, read.sha256, read.flaw), last.state(entry.id)
        change = "added" if before is None else "changed" if before != state else None
        if change:
            row = raw.Row(entry.id, *state[:4], read.content, read.flaw, False)
            self.part.add(raw.stored(row))
        what = {"sha256": read.sha256, "flaw": read.flaw, "change": change, "read": read.is_read}
        self.journal.add(listed(entry) | what)
        if self.part.full:
            self.part.close()
            self.journal.close()  # after the part: it is what says that the part is whole
            self.number += 1
            self.begin()

    def close(self, removed: list[str]) -> None:
        for id in removed:
            self.part.add(raw.stored(raw.Row(id, "", None, None, "", None, None, True)))
        self.part.close()
        self.journal.path = self.folder / LAST_JOURNAL
        self.journal.close()

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-*.parquet"))

    def journals(self) -> list[Path]:
        return sorted(self.folder.glob("journal-*.parquet"))


def listed(entry: Entry) -> dict[str, str | None]:
    values = (entry.id, entry.source, entry.label, entry.split, entry.stamp, entry.flaw)
    return dict(zip(LISTED, values, strict=True))


def rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in raw.opened(path).iter_batches(raw.GROUP_ROWS, columns=columns):
        yield from batch.to_pylist()


def summary(journals: list[Path], removed: int) -> dict[str, Any]:
    """What ``source.json`` says of the version, and how many entries were read."""
    counts: Counter[str] = Counter()
    digest = 0
    for journal in journals:
        for row in rows(journal, ["id", "label", "split", "sha256", "flaw", "change", "read"]):
            counts.update(["count", row.pop("change"), row.pop("read") and "read"])
            digest += raw.row_hash(**row)
    return {name: counts[name] for name in ("count", "added", "changed")} | {
        "removed": removed,
        "digest": f"{digest % 2**256:064x}",
        "read": counts["read"],
    }


def keep_stamps(journals: list[Path], path: Path) -> None:
    """Keep the stamps of what was read, for the next time."""
    stamps = raw.Part(path, pa.schema([(name, pa.string()) for name in STAMPS]))
    for journal in journals:
        for row in rows(journal, [*STAMPS, "listed"]):
            if row.pop("listed") is None and row["stamp"] is not None:
                stamps.add(row)
    stamps.close()


def publish(parts: list[Path], folder: Path, described: dict[str, Any]) -> None:
    """Give the folder the parts of its new version. The version is there as soon as ``source.json`` names it."""
    version, text = described["versions"][-1]["version"], json.dumps(described, indent=2) + "\n"
    if version == 1:
        with layout.written_whole(folder) as new:
            for part in parts:
                link(part, new)
            layout.replace(new / raw.SOURCE, text)
        return
    for stale in folder.glob("[0-9]*-*.parquet"):
        if raw.version_of(stale) >= version:  # a killed run's
            stale.unlink()
    for part in parts:
        link(part, folder)
    layout.replace(folder / raw.SOURCE, text)


def link(file: Path, folder: Path) -> None:
    try:
        os.link(file, folder / file.name)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(file, folder / file.name)
