"""Bring ``data/raw/NAME`` up to date with its source: only what is new or changed is read, only that is written.

What an entry was when it was last read is known by its stamp, kept in this checkout. A killed intake goes on after the
last finished part: beside each part lies a journal of the entries up to its end, and as long as the source still lists
the same, they are not read again. A part ends when it is full, or after so many entries where few of them are new.
Which rows end up in which file depends on the source and the last version alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from aigc_tasks import layout
from aigc_tasks.acquire import Entry, Source, archives, labels, places, raw
from aigc_tasks.acquire.known import STAMPS, Last, Read, keep_stamps
from aigc_tasks.acquire.reading import contents
from aigc_tasks.errors import UserError
from aigc_tasks.progress import progress

LISTED = ["id", "source", "label", "split", "stamp", "listed"]  # an entry as it is listed; the last one is its flaw
LAST_JOURNAL = "journal-last.parquet"  # of what did not fill a part
JOURNAL_ENTRIES = 50_000  # after which a part ends: what a killed intake reads again at most
SHUT = ("unreadable", "unreachable", "not a", "a link", "archive damaged", "bomb")  # flaws that may hide other entries
FOUND = ["id", "label", "split", "sha256", "flaw", "change", "read"]  # and what came out
JOURNAL = pa.schema([(name, pa.string()) for name in (*LISTED, "sha256", "flaw", "change")] + [("read", pa.bool_())])


def take_in(source: Source, folder: Path, work: Path) -> str:
    """Bring ``folder`` up to date and say in one line what was done; raises ``UserError``.

    ``work`` keeps the stamps, and what a killed run had finished. If the source's knobs are others than last time,
    everything is read again, and what differs is the next version; if it is of another kind, the versions begin again.
    """
    knobs = public({"kind": source.kind} | source.model_dump(mode="json", exclude_defaults=True))
    sweep(folder)
    described = history(folder, knobs)
    past = described["versions"]
    last = Last(folder if past else None, work / "stamps.parquet", knobs)
    unfinished = Unfinished(work / "unfinished", {"source": knobs, "versions": past})
    done = unfinished.resume(partial(source.entries, work))
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
    refuse_if_shut(removed, last, unfinished.rows(["id", "source", "listed"]), folder.name)
    version = {"version": len(past) + 1} | summary(unfinished.rows(FOUND), len(removed))
    is_read = version.pop("read")
    keep_stamps(unfinished.rows([*STAMPS, "flaw"]), work / "stamps.parquet", knobs)
    if version["added"] or version["changed"] or version["removed"]:
        version |= renewed(described, knobs, folder.name)
        publish(unfinished.parts(), folder, described | {"versions": [*past, version]})
    shutil.rmtree(unfinished.folder)
    changes = ", ".join(f"{version[change]:,} {change}" for change in ("added", "changed", "removed"))
    return f"{version['count']:,} entries: {changes}; {is_read:,} read"


def public(knobs: Any) -> Any:
    """The knobs as they may be stored: a URL's passwords and signatures are not what makes it another source.

    Nor is a knob without a value, as they were stored once.
    """
    if isinstance(knobs, dict):
        return {name: public(knob) for name, knob in knobs.items() if knob is not None}
    if isinstance(knobs, list):
        return [public(knob) for knob in knobs]
    return places.shown(knobs) if isinstance(knobs, str) and places.is_url(knobs) else knobs


def sweep(folder: Path) -> None:
    """Remove what a killed intake left in the folder and beside it: to DVC it would be another version."""
    shutil.rmtree(folder.with_name(f".{folder.name}.unfinished"), ignore_errors=True)
    (folder / f".{raw.SOURCE}.unfinished").unlink(missing_ok=True)
    try:
        known = raw.parts(folder)
    except UserError:
        return
    for stale in set(folder.glob(raw.PARTS)).difference(known):
        stale.unlink()


def history(folder: Path, knobs: dict[str, Any]) -> dict[str, Any]:
    """What ``source.json`` says, which the next version continues: no versions if its source is of another kind.

    ``source`` there are the knobs of the first version; one that was taken in with others says so itself.
    """
    try:
        described = raw.described(folder)
        raw.parts(folder)
        kind = described.get("source", {}).get("kind")
        if kind == knobs["kind"]:
            return described
        print(f"{folder}: its source was of kind {kind} and is of kind {knobs['kind']}: its versions begin again at 1")
    except UserError:
        if folder.exists():
            print(f"{folder}: not a whole raw data set: its versions begin again at 1")
    return {"source": knobs, "versions": []}


def renewed(described: dict[str, Any], knobs: dict[str, Any], name: str) -> dict[str, Any]:
    """What the next version says of its source: nothing if it is what that of the last one was."""
    past = described["versions"]
    before = public(next((version["source"] for version in reversed(past) if "source" in version), described["source"]))
    other = [knob for knob in {**before, **knobs} if before.get(knob) != knobs.get(knob)]
    if not other:
        return {}
    print(f"{name}: {', '.join(other)} in params.yaml changed since version {len(past)}; the versions go on")
    return {"source": knobs}


def unique(entries: Iterator[Entry], seen: set[str]) -> Iterator[Entry]:
    """The entries, and their ids in ``seen``; a second one of the same name, as archives may hold, has a flaw.

    Such copies come last, under names that no entry has. A class is one, however its letters are put together.
    """
    copies: list[Entry] = []
    for entry in entries:
        if entry.label is not None:
            entry = entry._replace(label=labels.composed(entry.label))
        if entry.id in seen:
            copies.append(entry._replace(read=None, flaw="has the name of another"))
        else:
            seen.add(entry.id)
            yield entry
    numbers: Counter[str] = Counter()
    for copy in copies:
        id = copy.id
        while id in seen:
            numbers[copy.id] += 1
            id = f"{copy.id} ({numbers[copy.id] + 1})"
        seen.add(id)
        yield copy._replace(id=id)


class Unfinished:
    """A version in the making: numbered parts, each with a journal of the entries up to its end."""

    def __init__(self, folder: Path, base: dict[str, Any]) -> None:
        """``base`` is the state that the version is built on: what was built on another one is thrown away."""
        self.folder, self.version, self.number = folder, len(base["versions"]) + 1, 0
        begun, text = folder / raw.SOURCE, json.dumps(base)
        if not begun.exists() or begun.read_text() != text:
            shutil.rmtree(folder, ignore_errors=True)
            layout.replace(begun, text)

    def resume(self, listing: Callable[[], Iterator[Entry]]) -> set[str]:
        """Keep the full parts as far as the source still lists the same; returns the ids that they account for."""
        done: set[str] = set()
        journals = self.journals()
        entries = unique(listing(), set()) if journals else iter(())  # a listing may be many requests
        for journal in journals:
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
        kept = {part_of(journal) for journal in journals[: self.number]}
        for file in journals + self.parts():
            if part_of(file) not in kept:
                file.unlink()
        self.begin()
        return done

    def begin(self) -> None:
        self.part = raw.Part(self.folder / raw.part_name(self.version, self.number))
        self.journal = raw.Part(self.folder / f"journal-{self.number:06d}.parquet", JOURNAL)
        self.entries = 0

    def add(self, entry: Entry, read: Read, last: Last) -> None:
        """Write down what the entry is, and its content if that is not what it was in the last version."""
        state, before = (entry.source, entry.label, entry.split, read.sha256, read.flaw), last.state(entry.id)
        change = "added" if before is None else "changed" if before != state else None
        if change:
            is_stored = before is not None and read.flaw is None and before[3] == read.sha256
            row = raw.Row(entry.id, *state[:4], None if is_stored else read.content, read.flaw, False)
            self.part.add(raw.stored(row) | ({"size": last.size(entry.id)} if is_stored else {}))
        what = {"sha256": read.sha256, "flaw": read.flaw, "change": change, "read": read.is_read}
        self.journal.add(listed(entry) | what)
        self.entries += 1
        if self.part.full or self.entries == JOURNAL_ENTRIES:  # whether they were read or known: see `Part.full`
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
        return sorted(self.folder.glob(raw.PARTS))

    def journals(self) -> list[Path]:
        return sorted(self.folder.glob("journal-*.parquet"))

    def rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Some columns of all that is in the journals."""
        for journal in self.journals():
            yield from rows(journal, columns)


def part_of(file: Path) -> str:
    """The number that a part and its journal share; a part without a row is not written."""
    return file.stem.partition("-")[2]


def listed(entry: Entry) -> dict[str, str | None]:
    values = (entry.id, entry.source, entry.label, entry.split, entry.stamp, entry.flaw)
    return dict(zip(LISTED, values, strict=True))


def rows(path: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in raw.opened(path).iter_batches(raw.GROUP_ROWS, columns=columns):
        yield from batch.to_pylist()


def refuse_if_shut(removed: list[str], last: Last, listing: Iterable[dict[str, Any]], name: str) -> None:
    """Raise ``UserError`` if entries only seem to be gone, because their folder or archive cannot be read now."""
    if not removed:
        return
    flawed = [row for row in listing if (row["listed"] or "").startswith(SHUT)]
    shut = {row["source" if row["id"].endswith(archives.REST) else "id"]: row["listed"] for row in flawed}
    for id in removed:
        above = [id[:end] for end, letter in enumerate(id) if letter == "/"]
        if state := last.state(id):
            above.append(state[0])
        if place := next(filter(shut.__contains__, above), None):
            raise UserError(
                f"{name}: {place}: {shut[place]}, and what was in it, such as {id}, would count as removed; "
                "make it readable, or move it out of the source"
            )


def summary(entries: Iterable[dict[str, Any]], removed: int) -> dict[str, Any]:
    """What ``source.json`` says of the version, and how many entries were read."""
    counts: Counter[str] = Counter()
    digest = 0
    for entry in entries:
        counts.update(["count", entry.pop("change"), entry.pop("read") and "read"])
        digest += raw.row_hash(**entry)
    return {name: counts[name] for name in ("count", "added", "changed")} | {
        "removed": removed,
        "digest": f"{digest % 2**256:064x}",
        "read": counts["read"],
    }


def publish(parts: list[Path], folder: Path, described: dict[str, Any]) -> None:
    """Give the folder the parts of its new version. The version is there as soon as ``source.json`` names it."""
    version, text = described["versions"][-1]["version"], json.dumps(described, indent=2) + "\n"
    if version == 1:
        with layout.written_whole(folder) as new:
            for part in parts:
                link(part, new)
            layout.replace(new / raw.SOURCE, text)
        return
    for part in parts:
        link(part, folder)
    layout.replace(folder / raw.SOURCE, text)


def link(file: Path, folder: Path) -> None:
    try:
        os.link(file, folder / file.name)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(file, folder / file.name)
