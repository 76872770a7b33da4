"""Any folder of pictures, or archives of them: labelled by the folders they lie in, by a CSV, or not at all."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from aigc_tasks import acquire, layout
from aigc_tasks.acquire import Entry, archives
from aigc_tasks.acquire import labels as csv
from aigc_tasks.errors import UserError

MEND = f"set `source` in params.yaml to a folder of pictures or to an archive of them ({archives.READ})"
BROKEN = "unreadable archive"
STRAY = 0.1  # share of a labelled set's files that may lie in no class folder


class Source(acquire.Source):
    kind: Literal["folder"]
    source: str = Field(
        min_length=1, description=f"folder of pictures or of archives of them, or one archive: {archives.READ}"
    )
    labels: bool | str | None = Field(
        None,
        description="true: pictures lie in folders named after their class; a path: of a CSV with a class for each; "
        "without it: by folders, if nearly all lie in two or more",
    )

    def entries(self, work: Path) -> Iterator[Entry]:
        place = layout.outside(self.source)
        return labelled(partial(listed, place, self.limit), self.labels, self.source)


def labelled(
    listing: Callable[[], Iterator[Entry]],
    labels: bool | str | None,
    place: str,
    options: dict[str, Any] | None = None,
) -> Iterator[Entry]:
    """The listed entries with the label and the split that ``labels`` stands for; raises ``UserError``.

    A CSV of labels is no entry where it lies within the source ``place``; ``options`` are fsspec's for it.
    """
    if isinstance(labels, str):
        if "://" in labels:
            own = labels.removeprefix(place.rstrip("/") + "/")
        else:
            own = os.path.relpath(layout.outside(labels).resolve(), layout.outside(place).resolve())

        def others() -> Iterator[Entry]:
            return (by_folder(entry)._replace(label=None) for entry in listing() if entry.id != own)

        return csv.applied(others, labels, options)
    if labels is None:
        labels = is_labelled(listing())
    elif labels and not any(by_folder(entry).label for entry in listing() if entry.flaw is None):
        raise UserError(
            f"{place}: `labels` is true in params.yaml, but no picture lies in a class folder; "
            "remove it, or move the pictures into folders named after their class"
        )
    return (in_class(by_folder(entry)) if labels else by_folder(entry)._replace(label=None) for entry in listing())


def is_labelled(listing: Iterator[Entry]) -> bool:
    """Whether folders are classes: there are two or more and few files in none. A flat set may grow by some folders."""
    counts = Counter(by_folder(entry).label for entry in listing if entry.flaw is None)
    stray, every = counts.pop(None, 0), counts.total()
    return len(counts) > 1 and stray <= STRAY * every


def in_class(entry: Entry) -> Entry:
    if entry.label is None and entry.flaw is None:
        return entry._replace(read=None, flaw="in no class folder")
    return entry


def by_folder(entry: Entry) -> Entry:
    """The entry with the class and the split that its folders tell; an archive's name tells a split alone."""
    folders = entry.id.split("/")[:-1]
    archive = len(PurePosixPath(entry.source).parts) - 1
    label, split = None, None
    for depth, name in enumerate(folders):
        division = csv.SPLITS.get(name.lower())
        split = split or division
        if division is None and depth != archive and name not in ("%2E%2E", ""):
            label = name
    return entry._replace(label=label, split=split)


def listed(place: Path, largest: int) -> Iterator[Entry]:
    """Everything in the folder or archive, without labels; raises ``UserError`` if it holds nothing.

    What has more than ``largest`` bytes has a flaw.
    """
    if not place.exists():
        raise UserError(f"{place}: no such folder or file; {MEND}")
    if place.is_dir():
        found = walked(place.resolve(), largest)
    elif archives.is_archive(place.name):
        name = archives.spelled(place.name)
        found = archives.entries(place, f"{archives.stem(name)}/", name, largest)
    else:
        raise UserError(f"{place}: neither a folder nor an archive; {MEND}")
    first = list(islice(found, 2))
    if not first:
        raise UserError(f"{place}: holds no pictures; {MEND}")
    if len(first) == 1 and first[0].flaw == BROKEN:
        raise UserError(f"{place / first[0].id}: not a whole archive, or permission denied; replace it, or {MEND}")
    while first:  # kept, they would keep what a packed tar has read of them
        yield first.pop(0)
    yield from found


def walked(root: Path, largest: int) -> Iterator[Entry]:
    """Every file below the folder, sorted by path, and the members of archives in their place."""
    waiting = [""]  # paths relative to the root in the wrong order; a folder's ends with a slash
    prefixes: dict[str, str] = {}  # of archives
    while waiting:
        path = waiting.pop()
        if path and not path.endswith("/"):
            yield from offered(root, path, prefixes.pop(path, ""), largest)
            continue
        try:
            with os.scandir(root / path) as children:
                names = [child.name + "/" * child.is_dir(follow_symlinks=False) for child in children]
        except OSError as error:
            if not path:
                raise UserError(f"{root}: {error.strerror}; make it readable, or {MEND}") from None
            yield flawed(path.rstrip("/"), f"unreadable folder ({error.strerror})")
            continue
        names = [name for name in names if archives.offered(path + name.rstrip("/"))]
        packed = [name for name in names if archives.is_archive(name)]
        stems = Counter([archives.stem(name) for name in packed] + [name[:-1] for name in names if name[-1] == "/"])
        for name in packed:
            own = archives.stem(name) if stems[archives.stem(name)] == 1 else name
            prefixes[path + name] = archives.spelled(f"{path}{own}/")
        waiting += sorted((path + name for name in names), reverse=True)


def offered(root: Path, path: str, prefix: str, largest: int) -> Iterator[Entry]:
    """What one file of the folder offers: itself, or the members of the archive it is."""
    id = archives.spelled(path)
    try:
        file, flaw = followed(root, root / path)
        size = file.lstat().st_size if flaw is None else 0
        if flaw is not None:
            yield flawed(id, flaw)
        elif prefix:
            try:
                yield from archives.entries(file, prefix, id, largest)
            except UserError:
                yield flawed(id, BROKEN)
        elif archives.is_other(path):
            yield flawed(id, archives.NOT_READ)
        elif size > largest:
            yield flawed(id, archives.too_large(largest))
        else:
            yield Entry(id, None, None, archives.stamp(file), partial(content, file, largest), size=size)
    except OSError as error:
        yield flawed(id, f"unreadable ({error.strerror})")


def followed(root: Path, file: Path) -> tuple[Path, str | None]:
    """The file itself where this is a link, and why it must not be read if it is none of the folder ``root``."""
    if file.is_symlink():
        file = Path(os.path.realpath(file))
        if not file.is_relative_to(root) or not file.exists() or file.is_dir():
            return file, "a link that leads out of the folder, to a folder or nowhere"
    return file, None if stat.S_ISREG(file.lstat().st_mode) else "not a regular file"


def flawed(id: str, flaw: str) -> Entry:
    return Entry(id, None, None, None, None, flaw=flaw)


def content(file: Path, largest: int) -> bytes:
    """The file's content, if it still is the regular file that was listed, and no link."""
    with archives.regular(file, os.O_NOFOLLOW) as opened:
        if os.fstat(opened.fileno()).st_size > largest:
            raise ValueError("changed while it was read")
        return opened.read(largest)
