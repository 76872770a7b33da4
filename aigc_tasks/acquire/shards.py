"""A source of large files that hold many pictures each: the files one by one, on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from aigc_tasks.acquire import archives, remote
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


def brought(source: str, endings: tuple[str, ...], options: dict[str, Any], work: Path) -> Iterator[Shard]:
    """Every file of ``source`` with one of ``endings``, in the order of their names; raises ``UserError``.

    ``source`` is a file, a folder, or a URL of either; ``{0000..0012}`` and ``{a,b}`` in it stand for many. Remote
    files are downloaded into ``work`` as they are asked for, and stay there: the next time only those that changed are
    fetched.
    """
    source = source if remote.is_url(source) else str(Path(source).expanduser())
    places = list(islice(expanded(source), MOST + 1))
    if len(places) > MOST:
        raise UserError(f"{source}: stands for more than {MOST:,} files; set `source` in params.yaml to their folder")
    root = source.partition("{")[0].rpartition("/")[0] if places != [source] else None
    used, empty = set(), True
    for place in places:
        listed = remote_files(place, endings, options) if remote.is_url(place) else local_files(place, endings)
        for below, location in listed:
            empty = False
            if root is not None:
                above = place.removeprefix(root).strip("/")
            else:
                above = "" if below else remote.name(place) if remote.is_url(place) else Path(place).name
            name = archives.spelled("/".join(filter(None, (above, below))))
            file = Path(location)
            if remote.is_url(location):  # in a folder of its own: files of one name may come from several places
                folder = work / "shards" / hashlib.sha256(location.encode()).hexdigest()[:16]
                used.add(folder)
                file = remote.download(location, folder, options=options)
            split = next((SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS), None)
            yield Shard(name, file, archives.stamp(file), split)
    for folder in set((work / "shards").glob("*")) - used:
        shutil.rmtree(folder)
    if empty:
        source = remote.shown(source) if remote.is_url(source) else source
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


def local_files(place: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The path below ``place`` and the path of each file that is neither hidden nor a link out of it."""
    if not Path(place).exists():
        raise UserError(f"{place}: no such folder or file; set `source` in params.yaml to where the files are")
    if not Path(place).is_dir():
        yield "", place
        return
    root = Path(place).resolve()
    for folder, folders, names in os.walk(place, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            below = file.relative_to(place).as_posix()
            inside = file.is_file() and file.resolve().is_relative_to(root)
            if inside and name.lower().endswith(endings) and archives.offered(below):
                yield below, str(file)


def refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}; make it readable, or set `source` in params.yaml") from None


def remote_files(url: str, endings: tuple[str, ...], options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The path below ``url`` and the URL of each file, or the file at ``url``."""
    if remote.name(url).lower().endswith(endings):
        yield "", url
        return
    for found in remote.files(url, options):
        if found.path.lower().endswith(endings) and archives.offered(found.path):
            yield found.path, found.url
