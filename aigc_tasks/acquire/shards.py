"""A source of large files that hold many pictures each: the files one by one, on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from aigc_tasks import layout
from aigc_tasks.acquire import Entry, archives, downloading, folder, places, remote
from aigc_tasks.acquire.labels import SPLITS
from aigc_tasks.errors import UserError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
MOST = 100_000  # files that a pattern may stand for


class Shard(NamedTuple):
    name: str  # relative to the source, '/'-separated, valid Unicode
    file: Path
    stamp: str  # changes whenever the content does
    split: str | None  # that the name tells, as in "train-00000.tar" or "test/0.parquet"
    flaw: str | None  # why it must not be opened
    place: str  # path or URL, as it may be shown


class Broken(Exception):
    """A shard that cannot be read, or not to its end."""


class Found(NamedTuple):
    """A file of the source, before it is brought here."""

    below: str  # the path below the place that was asked for; empty if it is that place
    location: str  # path or URL
    flaw: str | None = None


def entries(
    source: str, endings: tuple[str, ...], options: dict[str, Any], work: Path, read: Callable[[Shard], Iterator[Entry]]
) -> Iterator[Entry]:
    """What ``read`` lists of every shard; one that it finds ``Broken`` is an entry with a flaw, named after the shard.

    Raises ``UserError`` if none can be read.
    """
    is_read, trouble = False, ""
    for shard in brought(source, endings, options, work):
        flaw = reason = shard.flaw
        try:
            for entry in read(shard) if flaw is None else ():
                is_read = True
                yield entry
        except Broken as error:
            flaw, reason = f"unreadable shard ({error})", str(error)
        if flaw:
            trouble = trouble or f"{shard.place}: {reason}; replace it, or move it out of the source"
            yield Entry(shard.name, None, shard.split, None, None, shard.name, flaw)
    if trouble and not is_read:
        raise UserError(trouble)


def brought(source: str, endings: tuple[str, ...], options: dict[str, Any], work: Path) -> Iterator[Shard]:
    """Every file of ``source`` with one of ``endings``, in the order of their names; raises ``UserError``.

    ``source`` is a file, a folder, or a URL of either; ``{0000..0012}`` and ``{a,b}`` in it stand for many. Remote
    files are downloaded into ``work`` as they are asked for, and stay there: the next time only those that changed are
    fetched.
    """
    path = places.local(source)
    source = str(path) if path else source if places.is_url(source) else str(layout.outside(source))
    every = list(islice(expanded(source), MOST + 1))
    if len(every) > MOST:
        raise UserError(f"{source}: stands for more than {MOST:,} files; set `source` in params.yaml to their folder")
    root = source.partition("{")[0].rpartition("/")[0] if every != [source] else None
    used, empty = set(), True
    for place in every:
        listed = remote_files(place, endings, options) if places.is_url(place) else local_files(place, endings)
        for below, location, flaw in listed:
            empty = False
            if root is not None:
                above = place.removeprefix(root).strip("/")
            else:
                above = "" if below else places.name(place) if places.is_url(place) else Path(place).name
            name = archives.spelled("/".join(filter(None, (above, below))))
            file = Path(location)
            if places.is_url(location):  # in a folder of its own: files of one name may come from several places
                copy = work / "shards" / hashlib.sha256(location.encode()).hexdigest()[:16]
                used.add(copy)
                file = downloading.download(location, copy, options=options)
            split = next((SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS), None)
            shown = places.shown(location) if places.is_url(location) else location
            yield Shard(name, file, "" if flaw else archives.stamp(file), split, flaw, shown)
    for stale in set((work / "shards").glob("*")) - used:
        shutil.rmtree(stale)
    if empty:
        source = places.shown(source) if places.is_url(source) else source
        raise UserError(f"{source}: holds no file that ends in {' or '.join(endings)}; set `source` in params.yaml")


def expanded(pattern: str) -> Iterator[str]:
    """What a pattern with braces stands for, as a shell reads it: the first pair changes slowest."""
    match = min(filter(None, (RANGE.search(pattern), CHOICE.search(pattern))), key=lambda m: m.start(), default=None)
    if match is None:
        yield pattern
        return
    if match.re is RANGE:
        first, last = match.groups()
        parts: Iterable[str] = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    else:
        parts = match[1].split(",")
    for part in parts:
        yield from expanded(pattern[: match.start()] + part + pattern[match.end() :])


def local_files(place: str, endings: tuple[str, ...]) -> Iterator[Found]:
    """Every file with one of the endings that is not hidden, and what hides others: links to folders, shut folders."""
    if not Path(place).exists():
        raise UserError(f"{place}: no such folder or file; set `source` in params.yaml to where the files are")
    if not Path(place).is_dir():
        yield Found("", place, None if Path(place).is_file() else "not a regular file")
        return
    root, shut = Path(place).resolve(), list[OSError]()
    for above, folders, names in os.walk(root, onerror=shut.append):
        folders.sort()
        links = [name for name in folders if os.path.islink(f"{above}/{name}")]  # noqa: PTH114  Path's raises if too long
        for name in sorted(names + links):
            below = Path(above, name).relative_to(root).as_posix()
            if (name in links or name.lower().endswith(endings)) and archives.offered(below):
                yield reached(root, Path(above, name), below)
    for error in shut:
        if Path(error.filename) == root:
            raise UserError(f"{place}: {error.strerror}; make it readable, or set `source` in params.yaml")
        below = Path(error.filename).relative_to(root).as_posix()
        yield Found(below, error.filename, f"unreadable folder ({error.strerror})")


def reached(root: Path, file: Path, below: str) -> Found:
    try:
        followed, flaw = folder.followed(root, file)
    except OSError as error:  # its path is too long, for one
        return Found(below, str(file), f"unreadable ({error.strerror})")
    return Found(below, str(followed), flaw)


def remote_files(url: str, endings: tuple[str, ...], options: dict[str, Any]) -> Iterator[Found]:
    """Each file below ``url``, or the file at ``url``."""
    if places.name(url).lower().endswith(endings):
        yield Found("", url)
        return
    for found in remote.files(url, options):
        if found.path.lower().endswith(endings) and archives.offered(found.path):
            yield Found(found.path, found.url)
