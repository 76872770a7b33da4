"""Which kind of source a place is, by its name and by what is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aigc_tasks import acquire, layout, recipe
from aigc_tasks.acquire import archives, downloading, places, remote, shards, torchvision, webdataset
from aigc_tasks.clean import decoding
from aigc_tasks.errors import UserError

MEMBERS = 100  # samples of a tar, by which shards are told from an archive
SHARDS = 10  # tars of a folder that are asked whether they are
LARGE = 64 << 20  # bytes of a member
BEGINNING = 4 << 20  # bytes of a tar elsewhere
SOMEWHERE = "name a folder, an archive, an address such as s3://bucket/prefix, or torchvision:NAME"

T = TypeVar("T")


def decided(place: str, stand: Path) -> dict[str, Any]:
    """The ``acquire:`` section for a place, by its name and by a look at what is there; raises ``UserError``."""
    if place.startswith("torchvision:"):
        return {"kind": "torchvision", **as_kind(place, stand, "torchvision")}
    here = places.local(place)
    path = here or layout.outside(from_project(place, stand))
    kind: str | None
    more: dict[str, Any] = {}
    if places.is_url(place) and here is None:
        kind = by_address(place)
    elif path.is_dir():
        if mirrored := mirror_of(path):
            return {"kind": "torchvision", "name": mirrored, "mirror": from_project(place, stand)}
        kind = by_content(path)
        told = list(map(is_labelled, tars(path)[:SHARDS])) if kind == "webdataset" else []
        if any(told) and not told[0]:
            more["labels"] = True  # else the first shard, which has none, would tell that there are none
    elif path.exists():
        kind = "webdataset" if is_shard(path) else by_name(path.name)
    elif place in torchvision.SETS:
        return {"kind": "torchvision", "name": place}
    elif "{" not in place:
        raise UserError(f"{place}: no such folder or file; {SOMEWHERE}")
    else:
        kind = by_name(path.name)
    if kind is None:
        raise UserError(f"{place}: neither a folder nor an archive ({archives.READ}) nor a list; {SOMEWHERE}")
    if kind == "folder" and places.is_url(place):
        kind = "store"
    return {"kind": kind, "source": from_project(place, stand), **more}


def as_kind(place: str, stand: Path, kind: str) -> dict[str, str]:
    """The knob that names ``place`` to a source of this kind; raises ``UserError``."""
    recipe.one_of("--kind", kind, acquire.kinds())
    if kind == "torchvision":
        return {"name": place.removeprefix("torchvision:")}
    if "source" not in acquire.source(kind).model_fields:
        raise UserError(f"--kind {kind}: is not read from a place; omit --kind, or take a recipe for it: aigc list")
    return {"source": from_project(place, stand)}


def from_project(place: str, stand: Path) -> str:
    """A path that is meant from the folder ``stand``, as it is called in the project folder, in which we work."""
    if places.is_url(place) or place.startswith("~") or Path(place).is_absolute() or stand == Path.cwd():
        return place
    return os.path.relpath(stand / place)


def by_name(name: str) -> str | None:
    """The kind that the ending of a file's name, or of a pattern with braces, tells."""
    if archives.is_archive(name):
        return "webdataset" if "{" in name else "folder"
    return {".parquet": "parquet", ".txt": "urls", ".csv": "urls", ".tsv": "urls"}.get(
        PurePosixPath(name).suffix.lower()
    )


def by_content(folder: Path) -> str:
    """The kind that the files of a folder, and of the folders in it, tell."""
    files = (name for _, _, names in os.walk(folder) for name in names)  # over what cannot be opened it goes on
    endings = Counter(PurePosixPath(name).suffix.lower() for name in files)
    return by_endings(endings, tars(folder), is_shard)


def by_address(url: str) -> str:
    """The kind that the name of a place elsewhere tells, else the names of the files there and what its tars hold."""
    path = urlsplit(url).path
    if kind := by_name(path):
        is_shards = kind == "folder" and path.lower().endswith(archives.TARS) and is_shard_there(url)
        return "webdataset" if is_shards else kind
    there = remote.addresses(url)
    endings = Counter(PurePosixPath(path).suffix.lower() for path in there)
    return by_endings(
        endings,
        [there[path] for path in there if path.lower().endswith(archives.TARS) and archives.offered(path)],
        is_shard_there,
    )


def by_endings(endings: Counter[str], tars: list[T], is_shard: Callable[[T], bool]) -> str:
    """The kind that so many files of each ending tell, and the tars among them."""
    pictures = sum(endings[ending] for ending in decoding.KNOWN)
    if endings[".parquet"] > pictures:
        return "parquet"
    return "webdataset" if len(tars) >= pictures and any(map(is_shard, tars[:SHARDS])) else "folder"


def tars(folder: Path) -> list[Path]:
    """Those that ``webdataset`` would read, in its order."""
    found = shards.local_files(str(folder), archives.TARS)
    return [Path(file.location) for file in found if file.flaw is None]


def mirror_of(folder: Path) -> str | None:
    """The set of torchvision's whose files are in the folder; raises ``UserError`` if they are not as published."""
    present = {file.name for file in folder.iterdir() if file.is_file()}
    others: list[tuple[int, str, str]] = []  # several sets have files of the same names
    for name, published in torchvision.SETS.items():
        if published.files.keys() <= present:
            told = {file: downloading.mismatch(folder / file, {"md5": md5}) for file, md5 in published.files.items()}
            wrong = [f"{folder / file}: {said}" for file, said in told.items() if said]
            if not wrong:
                return name
            others.append((len(wrong), name, wrong[0]))
    if others:
        _, name, wrong_file = min(others)
        raise UserError(f"{wrong_file}, as that of {name} is; replace it by the original, or say --kind folder")
    return None


def is_shard(path: Path) -> bool:
    """Whether this is a tar of WebDataset: pictures beside a .cls or .json of the same key."""
    return any(sample.keys() & {"cls", "json"} and any(map(webdataset.is_picture, sample)) for sample in samples(path))


def is_shard_there(url: str) -> bool:
    """The same of a tar elsewhere, by as much of its beginning as a look is worth."""
    with TemporaryDirectory() as folder:
        file = Path(folder, places.name(url))
        file.write_bytes(remote.beginning(url, BEGINNING))
        return is_shard(file)


def is_labelled(path: Path) -> bool:
    return any(webdataset.told(sample) != (None, None) for sample in samples(path))


def samples(path: Path) -> Iterator[webdataset.Sample]:
    """Some samples of a tar as ``webdataset`` reads them, up to any damage: what is wrong with it, its kind says."""
    if path.name.lower().endswith(archives.TARS):
        shard = shards.Shard(path.name, path, "", None, None, str(path))
        with suppress(shards.Broken, OSError):
            yield from islice(webdataset.samples(shard, LARGE), MEMBERS)
