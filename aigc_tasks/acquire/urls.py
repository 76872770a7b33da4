"""Pictures, and archives of them, from a list of URLs."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from aigc_tasks import acquire, layout
from aigc_tasks.acquire import Entry, archives, downloading, folder, labels, places, remote
from aigc_tasks.acquire.store import kept, named
from aigc_tasks.acquire.unreachable import Unreachable
from aigc_tasks.errors import UserError

COLUMNS = {
    "url": ("url", "urls", "link", "href", "imageurl"),
    "label": labels.LABEL,
    "split": labels.SPLIT,
    "md5": ("md5", "md5sum"),
    "sha256": ("sha256", "sha256sum"),
}
FAR = ("http", "https", "ftp", "s3", "gs", "hf", "az", "abfs")
LIST = 256 << 20  # bytes; a longer list is none
SPLIT_MEND = "or set `split: false` in params.yaml"
DIGITS = {"md5": 32, "sha256": 64}


class Listed(NamedTuple):
    """One line of the list."""

    url: str
    label: str | None = None
    split: str | None = None
    md5: str | None = None
    sha256: str | None = None


class Source(acquire.Source):
    kind: Literal["urls"]
    source: str | None = Field(
        None,
        description="path or URL of a list: one URL a line, or a CSV with a column url and, where known, label, split, "
        "md5, sha256",
    )
    urls: list[str] | None = Field(None, min_length=1, description="the URLs themselves, instead of `source`")
    labels: bool | str | None = Field(
        None,
        description="true: the last folder of each URL is its class; a path or URL: of a CSV with a class for each; "
        "without it: the list's column label, or, where all URLs are archives, class folders in them",
    )
    split: Literal[False] | None = Field(None, description="false: the list's column split is passed over")

    @model_validator(mode="after")
    def one_list(self) -> Source:
        if (self.source is None) == (self.urls is None):
            raise ValueError("write either `source`, the place of a list, or `urls`, the list itself")
        return self

    def entries(self, work: Path) -> Iterator[Entry]:
        place = self.source or "`urls` in params.yaml"
        rows = unique([Listed(url) for url in self.urls] if self.urls else read(place, self.split is None), place)
        return (divided(entry, rows) for entry in self.labelled(rows, work, place))

    def labelled(self, rows: dict[str, Listed], work: Path, place: str) -> Iterator[Entry]:
        listing = partial(listed, rows, work, place, self.limit)
        if self.labels is None and any(row.label for row in rows.values()):
            return (told(entry, place) for entry in listing())
        if self.labels is None and not all(archives.is_archive(id) for id in rows):
            return folder.labelled(listing, False, place)
        return (below_host(entry) for entry in folder.labelled(listing, self.labels, place))


def divided(entry: Entry, rows: dict[str, Listed]) -> Entry:
    """The entry with the split that its line tells, or its archive's, if that tells one."""
    row = rows.get(entry.id) or rows.get(entry.source)
    return entry._replace(split=row.split) if row and row.split else entry


def told(entry: Entry, place: str) -> Entry:
    """The entry with the label of its line, and a flaw if there is none."""
    entry = entry._replace(split=folder.by_folder(entry).split)
    if entry.label is None and entry.flaw is None:
        return entry._replace(read=None, flaw=f"no label in {places.name(place)}")
    return entry


def below_host(entry: Entry) -> Entry:
    """The entry without a label that is but the name of its host."""
    if entry.label is not None and entry.id.split("/")[:-1] == [entry.label] and not entry.source:
        return entry._replace(label=None, read=None, flaw="in no class folder")
    return entry


def read(place: str, divides: bool) -> list[Listed]:
    """The lines of the list at ``place``, a path or a URL, with the splits of its column if it ``divides``.

    Raises ``UserError``.
    """
    try:
        text = content(place).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{place}: not UTF-8; save it as UTF-8, or set `source` in params.yaml to another") from None
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        raise UserError(f"{place}: {reason}; set `source` in params.yaml to a list of URLs") from None
    lines = text.splitlines()
    head = lines[0] if lines else ""
    delimiter = max(",;\t|", key=head.count)
    names = ["".join(filter(str.isalnum, cell.lower())) for cell in head.split(delimiter)]
    columns = {
        field: next((names.index(name) for name in known if name in names), None) for field, known in COLUMNS.items()
    }
    if columns["url"] is None:  # no CSV
        return [Listed(line.strip()) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if any(row)]
    except csv.Error as error:
        raise UserError(f"{place}: {error}; correct the list") from None
    found = []
    for row in rows[1:]:
        if len(row) != len(names):
            raise UserError(f"{place}: {row[0]!r} stands in a line of {len(row)} columns, not {len(names)}; correct it")
        cells = {field: row[at].strip() or None for field, at in columns.items() if at is not None}
        url, split = cells.pop("url") or "", cells.pop("split", None) or ""
        where = f"{place}: {places.shown(url) if places.is_url(url) else url}"
        told = labels.division(split, where, SPLIT_MEND) if divides else None
        found.append(Listed(url, split=told, **cells))
    return found


def content(place: str) -> bytes:
    if places.is_url(place):
        return remote.read(place, LIST)
    with archives.regular(layout.outside(place)) as file:
        return file.read()


def unique(rows: list[Listed], place: str) -> dict[str, Listed]:
    """The lines by the ids of what they name, in order of those; raises ``UserError``."""
    found: dict[str, Listed] = {}
    for row in rows:
        if not places.is_url(row.url):
            raise UserError(f"{place}: {row.url!r} is not a URL; write https://… or another protocol, or remove it")
        for kind, digits in DIGITS.items():
            if (checksum := getattr(row, kind)) and not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", checksum):
                raise UserError(
                    f"{place}: {places.shown(row.url)}: {checksum!r} is no {kind}; correct it, or remove it"
                )
        if found.setdefault(identity(row.url), row) != row:  # also if what is not shown of the URLs differs
            raise UserError(f"{place}: names {places.shown(row.url)} twice, but differently; keep one of them")
    if not found:
        raise UserError(f"{place}: holds no URL; write one a line")
    return dict(sorted(found.items()))


def identity(url: str) -> str:
    """Host, path and a picture's query: not the protocol, and nothing secret."""
    parts = urlsplit(places.shown(url))
    path = archives.spelled(unquote(parts.netloc + parts.path, errors="surrogateescape")).strip("/")
    return f"{path}?{parts.query.replace('/', '%2F')}" if parts.query and not archives.is_archive(path) else path


def listed(rows: dict[str, Listed], work: Path, place: str, largest: int) -> Iterator[Entry]:
    """What each line offers, or why it offers nothing; raises ``UserError`` if none offers anything.

    A picture with a checksum is known by it: it is fetched once, and its server is not asked again.
    """
    prefixes = named(list(rows))
    folders = kept([rows[id].url for id in prefixes], work)
    pictures = {id: row for id, row in rows.items() if id not in prefixes and not refused(row.url, place)}
    unknown = [row.url for row in pictures.values() if not (row.md5 or row.sha256)]
    heads = remote.probes(unknown)
    is_reached, trouble = False, None
    for id, row in rows.items():
        sums = downloading.checksums(row.md5, row.sha256)
        if flaw := refused(row.url, place):
            yield folder.flawed(id, flaw)._replace(label=row.label)
            continue
        try:
            if id in prefixes:
                archive = downloading.download(row.url, folders[row.url], row.md5, row.sha256)
                members = archives.entries(archive, prefixes[id], id, largest, places.shown(row.url))
                yield from (member._replace(label=row.label) for member in members)
            elif sums and is_reached:
                yield Entry(id, row.label, None, str(sums), partial(fetched, row.url, sums, largest))
            else:
                head = next(remote.probes([row.url]) if sums else heads)
                if isinstance(head, Unreachable):
                    raise head
                stamp, size = str(sums) if sums else remote.stamped(head), head.get("size")
                if (size or 0) > largest:
                    yield folder.flawed(id, archives.too_large(largest))._replace(label=row.label)
                else:
                    yield Entry(id, row.label, None, stamp, partial(fetched, row.url, sums, largest), size=size)
            is_reached = True
        except UserError as error:
            trouble = error
            reason = f"unreachable ({error.reason})" if isinstance(error, Unreachable) else "not a whole archive"
            yield folder.flawed(id, reason)._replace(label=row.label)
    if not is_reached:
        raise UserError(f"{place}: none of its {len(rows):,} URLs can be had; the last: {trouble}")


def refused(url: str, place: str) -> str | None:
    """Why a list that came from elsewhere must not name this URL: it could ask for anything on this machine."""
    if places.is_url(place) and not place.startswith("file:") and urlsplit(url).scheme not in FAR:
        return "neither http(s) nor a store, in a list from elsewhere"
    return None


def fetched(url: str, sums: dict[str, str], largest: int) -> bytes:
    """The file; raises ``ValueError``: of a long list some cannot be had, and the others matter."""
    try:
        content = remote.read(url, largest)
    except Unreachable as error:
        raise ValueError(error.reason) from None
    for kind, expected in sums.items():
        if (found := hashlib.new(kind, content, usedforsecurity=False).hexdigest()) != expected:
            raise ValueError(f"its {kind} is {found}, not {expected}")
    return content
