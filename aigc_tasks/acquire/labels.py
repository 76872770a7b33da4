"""A CSV that says which class, and perhaps which split, each picture of a source belongs to."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from aigc_tasks import layout
from aigc_tasks.acquire import PICTURES, Entry, archives, downloading, places
from aigc_tasks.errors import UserError

FILE = ("file", "filename", "filepath", "path", "image", "imageid", "imagename", "imagepath", "img", "picture", "id")
LABEL = ("label", "labels", "class", "classname", "classlabel", "target", "category")
SPLIT = ("split", "subset", "partition")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MEND = "or set `labels` in params.yaml to another CSV"


class Told(NamedTuple):
    """What the CSV says of one file; None where it says nothing."""

    label: str | None
    split: str | None


def read(place: str, options: dict[str, Any] | None = None) -> dict[str, Told]:
    """What the CSV at ``place``, a path or a URL, says of each file it names; raises ``UserError``.

    It is UTF-8, separated by comma, semicolon, tab or bar, and its first line names the columns in any order and case:
    one of files (``file``, ``path``, ``image_id`` …), one of labels (``label``, ``class`` …), one of splits if there
    is one.
    """
    content, place = fetched(place, options), places.shown(place) if places.is_url(place) else place
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{place}: line {line} is not UTF-8; save the file as UTF-8, {MEND}") from None
    head = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=head.count), strict=True)
    told: dict[str, Told] = {}
    try:
        header = next(rows, [])
        file, label, split = columns(header, place)
        for row in rows:
            if not any(map(str.strip, row)):
                continue
            where = f"{place}: line {rows.line_num}"
            if len(row) != len(header):
                raise UserError(f"{where} has {len(row)} columns, the first line {len(header)}; correct it, {MEND}")
            name = tidy(row[file])
            if not name:
                raise UserError(f"{where} names no file; correct it, {MEND}")
            new = Told(row[label].strip() or None, division(row[split], where) if split is not None else None)
            if told.setdefault(name, new) != new:
                raise UserError(f"{where} names {name} again with another label or split; keep one of them, {MEND}")
    except csv.Error as error:
        raise UserError(f"{place}: line {rows.line_num}: {error}; correct it, {MEND}") from None
    return told


def fetched(place: str, options: dict[str, Any] | None) -> bytes:
    if places.is_url(place):
        with TemporaryDirectory() as folder:
            return downloading.download(place, Path(folder), options=options).read_bytes()
    try:
        with archives.regular(layout.outside(place)) as file:
            return file.read()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{place}: {reason}; set `labels` in params.yaml to the CSV with the labels") from None


def columns(header: list[str], place: str) -> tuple[int, int, int | None]:
    """Where files, labels and splits stand; raises ``UserError``. Of two columns, the other one holds the labels."""
    names = ["".join(filter(str.isalnum, name.lower())) for name in header]
    file, label, split = (
        next((names.index(name) for name in known if name in names), None) for known in (FILE, LABEL, SPLIT)
    )
    rest = [number for number in range(len(names)) if number not in (file, split)]
    if label is None and len(rest) == 1:
        label = rest[0]
    if file is None or label is None or file == label:
        missing = "file" if file is None else "label"
        shown = ", ".join(repr(name.strip()) for name in header)[:200] or "nothing"
        raise UserError(
            f"{place}: no column is named `{missing}`: its first line is {shown}; "
            f"begin it with a line such as `file,label` or `file,label,split`, {MEND}"
        )
    return file, label, split


def division(text: str, where: str, mend: str = MEND) -> str | None:
    """The split that a word stands for; raises ``UserError``."""
    word = text.strip().lower()
    if word and word not in SPLITS:
        shown = repr(text.strip()[:50])
        raise UserError(f"{where}: {shown} is no split; write train, val or test there, or nothing, {mend}")
    return SPLITS.get(word)


def tidy(name: str) -> str:
    """A path as entries' ids are spelled, composed."""
    return composed(str(PurePosixPath(name.strip().replace("\\", "/"))).lstrip("/")) if name.strip() else ""


def composed(name: str) -> str:
    """The name with each letter as one character where it can be: macOS writes é as e and an accent."""
    return unicodedata.normalize("NFC", name)


def by_name(told: dict[str, Told]) -> dict[str, str]:
    """The file of each bare name, where only one is so named, or all of them are told the same."""
    bare: dict[str, str] = {}
    for path, one in told.items():
        name = path.rpartition("/")[2]
        if name != path and one != told.get(bare.setdefault(name, path)):
            bare[name] = ""
    return bare


def find(told: dict[str, Told], bare: dict[str, str], id: str) -> str | None:
    """The file that is most like an entry's id, which is ``composed``: the same, else the end of that path down to the
    bare name, else the same without ending, else another path to the same bare name, which ``by_name`` knows.
    """
    parts = id.split("/")
    paths = ["/".join(parts[start:]) for start in range(len(parts))]
    paths += [path.removesuffix(PurePosixPath(path).suffix) for path in paths]
    found = next((path for path in paths if path in told), None)
    return found or bare.get(parts[-1]) or bare.get(paths[-1]) or None


def taken(entries: Iterator[Entry], told: dict[str, Told], bare: dict[str, str]) -> tuple[set[str], set[str]]:
    """The files that are entries' own ids, and those that are none and like the ids of several good pictures.

    Where several lines tell the same of a bare name, it may fit as many pictures.
    """
    lines = Counter(path.rpartition("/")[2] for path in told)
    agreed = {file for name, file in bare.items() if lines[name] > 1}
    own, several, like = set[str](), set[str](), dict[str, str]()
    for entry in entries:
        id = composed(entry.id)
        if id in told:
            own.add(id)
        elif entry.flaw is None and PurePosixPath(entry.id).suffix[1:].lower() in {"", *PICTURES}:
            file = find(told, bare, id)
            if file and file not in agreed and like.setdefault(file, entry.id) != entry.id:
                several.add(file)
    return own, several


def applied(
    listing: Callable[[], Iterator[Entry]], place: str, options: dict[str, Any] | None = None
) -> Iterator[Entry]:
    """The entries with what the CSV at ``place`` says of them; one it gives no label has a flaw. Raises ``UserError``.

    A line is about the entry whose id it names; only if there is none, about the one that is like it. For that all
    entries are listed once more, as soon as one is not named by its id. A split that the CSV does not tell stays as the
    source tells it.
    """
    told = read(place, options)
    bare = by_name(told)
    file = places.name(place) if places.is_url(place) else Path(place).name
    named, example = 0, None
    own: set[str] | None = None
    for entry in listing():
        id = composed(entry.id)
        flaw, name = f"no label in {file}", find(told, bare, id)
        named, example = named + (name is not None), example or entry.id
        if name is not None and name != id:
            if own is None:
                own, several = taken(listing(), told, bare)
            if name in several:
                flaw = f"one line of {file} fits several pictures: write whole paths there"
            name = None if name in own or name in several else name
        one = told[name] if name is not None else None
        if entry.flaw is not None:
            yield entry
        elif one is None or one.label is None:
            yield entry._replace(label=None, read=None, flaw=flaw)
        else:
            yield entry._replace(label=one.label, split=one.split or entry.split)
    if example is not None and not named:
        raise UserError(f"{file}: names none of the source's files, such as {example}; correct its paths, {MEND}")
