"""Look at a source before it becomes a data set: of which kind it is, what lies in it, which settings suit it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from math import log2
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from aigc_tasks import acquire, catalogue, clean, layout, recipe
from aigc_tasks.acquire import archives, downloading, intake, places, raw, reading, shards, torchvision, webdataset
from aigc_tasks.clean import decoding, looking, profile, splitting
from aigc_tasks.clean.arrays import in_order
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import validated
from aigc_tasks.progress import progress

LOOKED = 200  # entries, at most
LARGEST = 64  # pixels a side of a chosen size: what a CPU trains in an hour
SMALLEST = 8  # clean takes less for too small
COARSE = 14  # pixels a side that a network sees, at least, where it sees squares of pixels as one
MARGIN = 1.2  # times the share that must survive cleaning; what looks like less is expected to fail
LEAST = splitting.LEAST * len(splitting.SPLITS)  # pictures that can be divided into splits
SHOWN = 8  # classes and problems named before "…"
MEMBERS = 100  # samples of a tar, by which shards are told from an archive
SHARDS = 10  # tars of a folder that are asked whether they are
RECIPE = "-diffusion"  # what the name of the recipe that it suggests ends in
LARGE = 64 << 20  # bytes of a member
AS_CLEAN = clean.Knobs.model_validate({"size": LARGEST})
SOMEWHERE = "name a folder, an archive, an address such as s3://bucket/prefix, or torchvision:NAME"


class Look(NamedTuple):
    """What a source holds. ``labels``, ``splits`` and ``flaws`` count all entries, ``sample`` has a row for some."""

    entries: int
    labels: Counter[str]
    splits: Counter[str]
    flaws: Counter[str]
    sample: pd.DataFrame  # as clean sees them: width, height, mode (empty if it is no picture), reason, flags

    @property
    def pictures(self) -> pd.DataFrame:
        """The rows of the sample that clean keeps, as far as one picture tells, by area."""
        found = self.sample[self.sample["reason"].isna()]
        found = found.astype({"width": int, "height": int})
        return found.iloc[(found["width"] * found["height"]).argsort(kind="stable")]

    @property
    def usable(self) -> float:
        """The share of the sample that clean keeps, as far as one picture tells."""
        return float(self.sample["reason"].isna().mean())


def add(name: str, place: str, stand: Path, labels: str | None, size: int | None, kind: str | None) -> str:
    """Look at ``place`` and write ``datasets.NAME`` into ``params.yaml``; returns what was found and what comes next.

    Relative paths are meant from the folder ``stand``. On an error, which is a ``UserError``, nothing is written.
    """
    where = f"{layout.PARAMS}: datasets.{name}"
    if not recipe.NAME.fullmatch(f"{name}{RECIPE}"):
        longest = recipe.LONGEST - len(RECIPE)
        raise UserError(f"{name}: a name is made of a-z, 0-9, - and _, {longest} of them at most; choose another")
    if name in recipe.read(layout.PARAMS)["datasets"]:
        raise UserError(
            f"{where}: is in use already; choose another name, or bring it up to date: aigc data update {name}"
        )
    section: dict[str, Any] = decided(place, stand) if kind is None else {"kind": kind, **as_kind(place, stand, kind)}
    source = acquire.source(section["kind"])
    if labels is not None:
        if "labels" not in source.model_fields:
            raise UserError(f"--labels: a source of kind {section['kind']} brings its labels itself; omit it")
        section["labels"] = from_project(labels, stand)
    validated(clean.Knobs, {} if size is None else {"size": size}, f"{where}.clean")
    look = looked(validated(source, section, f"{where}.acquire"), layout.LOCAL / "acquire" / name, place)
    if section["kind"] in ("folder", "store"):  # written down: what folders mean must not change as the set grows
        section.setdefault("labels", bool(look.labels))
    cleaning = suited(look, size)
    catalogue.put({"datasets": {name: {"acquire": section, "clean": cleaning, "features": {}}}})
    head = f"{name}  {places.shown(place) if places.is_url(place) else place}, of kind {section['kind']}"
    return f"{head}\n{said(look)}\n\n{following(name, look, cleaning)}"


def from_project(place: str, stand: Path) -> str:
    """A path that is meant from the folder ``stand``, as it is called in the project folder, in which we work."""
    if places.is_url(place) or place.startswith("~") or Path(place).is_absolute() or stand == Path.cwd():
        return place
    return os.path.relpath(stand / place)


def as_kind(place: str, stand: Path, kind: str) -> dict[str, str]:
    """The knob that names ``place`` to a source of this kind; raises ``UserError``."""
    recipe.one_of("--kind", kind, acquire.kinds())
    if kind == "torchvision":
        return {"name": place.removeprefix("torchvision:")}
    if "source" not in acquire.source(kind).model_fields:
        raise UserError(f"--kind {kind}: is not read from a place; omit --kind, or take a recipe for it: aigc list")
    return {"source": from_project(place, stand)}


def decided(place: str, stand: Path) -> dict[str, Any]:
    """The ``acquire:`` section for a place, by its name and by a look at what is there; raises ``UserError``."""
    if place.startswith("torchvision:"):
        return {"kind": "torchvision", **as_kind(place, stand, "torchvision")}
    path = Path(from_project(place, stand)).expanduser()
    kind: str | None
    more: dict[str, Any] = {}
    if places.is_url(place):
        kind = by_name(urlsplit(place).path) or "store"
        kind = "store" if kind == "folder" else kind
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
    return {"kind": kind, "source": from_project(place, stand), **more}


def by_name(name: str) -> str | None:
    """The kind that the ending of a file's name, or of a pattern with braces, tells."""
    if archives.is_archive(name):
        return "webdataset" if "{" in name else "folder"
    return {".parquet": "parquet", ".txt": "urls", ".csv": "urls"}.get(PurePosixPath(name).suffix.lower())


def by_content(folder: Path) -> str:
    """The kind that the files of a folder, and of the folders in it, tell."""
    endings = Counter(file.suffix.lower() for file in folder.rglob("*"))
    pictures = sum(endings[ending] for ending in decoding.KNOWN)
    if endings[".parquet"] > pictures:
        return "parquet"
    found = tars(folder)
    return "webdataset" if len(found) >= pictures and any(map(is_shard, found[:SHARDS])) else "folder"


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


def is_labelled(path: Path) -> bool:
    return any(webdataset.told(sample) != (None, None) for sample in samples(path))


def samples(path: Path) -> Iterator[webdataset.Sample]:
    """Some samples of a tar as ``webdataset`` reads them, up to any damage: what is wrong with it, its kind says."""
    if path.name.lower().endswith(archives.TARS):
        shard = shards.Shard(path.name, path, "", None, None, str(path))
        with suppress(shards.Broken, OSError):
            yield from islice(webdataset.samples(shard, LARGE), MEMBERS)


def looked(source: acquire.Source, work: Path, place: str) -> Look:
    """List the whole source and look at a few entries, evenly spread; raises ``UserError`` if no picture is found."""
    named, others, splits, flaws = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    entries = 0
    for entry in intake.unique(source.entries(work), set()):
        entries += 1
        labels = named if PurePosixPath(entry.id).suffix.lower() in decoding.KNOWN else others
        if entry.flaw is None:
            labels.update([entry.label] if entry.label is not None else [])
            splits.update([entry.split] if entry.split is not None else [])
        flaws.update([group(entry.flaw)] if entry.flaw is not None else [])
    if not entries:
        raise UserError(f"{place}: is empty; {SOMEWHERE} that holds pictures")
    count = min(entries, LOOKED)
    spread, found = {number * entries // count for number in range(count)}, []
    again = intake.unique(source.entries(work), set())  # entries kept may hold what they are read from
    with progress("look", count) as update:
        for number, entry in enumerate(again):
            if number in spread:
                found.append(examined(entry))
                update(len(found), "entries")
            if len(found) == count:
                break
    sample = pd.DataFrame(found, columns=["width", "height", "mode", "reason", "flags"])
    if sample["reason"].notna().all():
        raise UserError(
            f"{place}: none of {count:,} entries looked at is a picture to learn from "
            f"({counted(reasons(sample))}); {SOMEWHERE} that holds pictures"
        )
    return Look(entries, named or others, splits, flaws, sample)


def examined(entry: acquire.Entry) -> dict[str, Any]:
    """One entry as clean would see it, and what it would find wrong."""
    content, flaw = None, entry.flaw
    if flaw is None:
        read = reading.fetched(entry)
        content, flaw = read.content, read.flaw
    row = raw.Row(entry.id, entry.source, entry.label, entry.split, "", content, flaw, False)
    facts, picture, pixels = looking.examined(row, AS_CLEAN, None)
    if picture:
        facts["place"] = 0
        looking.measured([facts], profile.embedding(pixels[None]), np.empty(0))
        looking.judged(facts, picture, AS_CLEAN)
    return facts


def suited(look: Look, size: int | None) -> dict[str, Any]:
    """The ``clean:`` section: a size, if none is given and the pictures are not of one that can be learned from."""
    pictures = look.pictures
    median = pictures.iloc[len(pictures) // 2]
    shorter = int(min(median["width"], median["height"]))
    if len(set(sizes(look))) > 1 or not median["width"] == median["height"] <= LARGEST:
        size = size or min(LARGEST, max(SMALLEST, 2 ** round(log2(shorter))))
    section: dict[str, Any] = {} if size is None else {"size": size}
    if look.usable < MARGIN * AS_CLEAN.survive:
        section["survive"] = round(look.usable / 2, 2)
    return section


def sizes(look: Look) -> list[str]:
    """Width and height of the pictures looked at, by area."""
    return [f"{width}×{height}" for width, height in look.pictures[["width", "height"]].itertuples(index=False)]


def said(look: Look) -> str:
    """What was found, a line a fact."""
    pictures, seen, decoded = look.pictures, len(look.sample), int(look.sample["width"].notna().sum())
    every = "all" if decoded == seen else f"{decoded:,}"
    lines = [f"entries   {look.entries:,}; {every} of {seen:,} looked at are pictures"]
    found = sizes(look)
    if len(set(found)) == 1:
        lines.append(f"sizes     {found[0]}")
    else:
        lines.append(f"sizes     smallest {found[0]}, median {found[len(found) // 2]}, largest {found[-1]}")
    lines.append(f"modes     {counted(Counter(pictures['mode']))}")
    lines.append(f"classes   {classes(look.labels)}")
    lines.append(f"splits    {counted(look.splits) or 'none of its own'}")
    return "\n".join(lines + [f"problem   {problem}" for problem in problems(look)])


def classes(labels: Counter[str]) -> str:
    if not labels:
        return "none"
    few = {label: labels[label] for label in in_order(set(labels))[:SHOWN]}
    more = f", … from {min(labels.values()):,} to {max(labels.values()):,}" if len(labels) > SHOWN else ""
    return f"{len(labels):,}: {', '.join(f'{shown(label)} {count:,}' for label, count in few.items())}{more}"


def problems(look: Look) -> list[str]:
    """What a user should know before going on."""
    found, seen = [], len(look.sample)
    if look.flaws:
        found.append(f"cannot be used, of all {look.entries:,}: {counted(look.flaws)}")
    dropped = reasons(look.sample) - look.flaws
    if dropped:
        found.append(f"clean drops, of {seen:,} looked at: {counted(dropped)}")
    flags = Counter(group(flag) for flags in look.sample["flags"].dropna() for flag in flags.split("; ") if flag)
    if flags:
        found.append(f"clean flags or converts, of {seen:,} looked at: {counted(flags)}")
    if look.usable < MARGIN * AS_CLEAN.survive:
        found.append(f"only {look.usable:.0%} can be used; `clean.survive` is lowered so that clean goes on")
    if look.usable * look.entries < LEAST:
        found.append(f"fewer than {LEAST} pictures cannot be divided into train, val and test; add more")
    if len(look.labels) > 1 and look.labels.total() < 4 * len(look.labels):
        found.append(
            "hardly more pictures than classes; if folders are no classes, set `labels: false` below `acquire:`"
        )
    return found


def reasons(sample: pd.DataFrame) -> Counter[str]:
    return Counter(map(group, sample["reason"].dropna()))


def group(reason: str) -> str:
    """A reason without its details."""
    return re.split(r" \(|: ", reason)[0]


def counted(counts: Counter[str]) -> str:
    most = [f"{shown(name)} {count:,}" for name, count in counts.most_common(SHOWN)]
    return ", ".join(most) + (", …" if len(counts) > SHOWN else "")


def shown(text: str) -> str:
    """A source's word for a terminal: what would move the cursor, or hide, is written out."""
    return text if text.isprintable() else repr(text)[1:-1]


def following(name: str, look: Look, cleaning: dict[str, Any]) -> str:
    """What was written and what comes next."""
    size, first = cleaning.get("size"), look.pictures.iloc[0]
    side = int(size or first["height"])
    patch = next(patch for patch in (8, 4, 2, 1) if patch == 1 or (side % patch == 0 and side // patch >= COARSE))
    resized = f", images resized to {side}×{side} (`clean.size`, or --size)" if size else ""
    return "\n".join(
        [
            f"{layout.PARAMS}: added datasets.{name}{resized}",
            f"next      dvc repro clean@{name}",
            f"train     paste this under `recipes:` in {layout.PARAMS}, then: aigc run {name}{RECIPE}",
            "",
            f"  {name}{RECIPE}:",
            f"    dataset: {name}",
            "    family: diffusion",
            "    network: unet",
            f"    model: {{width: {16 if side < 2 * COARSE else 32}, patch: {patch}}}",
            "    train: {}",
            "    postprocess: {}",
            "    evaluate: {}",
        ]
    )
