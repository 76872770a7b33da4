"""Write a source into ``params.yaml`` as a data set, with the settings that suit it, and say what was found."""

from __future__ import annotations

import io
from collections import Counter
from math import log2
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aigc_tasks import acquire, catalogue, clean, layout, recipe
from aigc_tasks.acquire import places
from aigc_tasks.clean import splitting
from aigc_tasks.clean.arrays import in_order
from aigc_tasks.errors import UserError
from aigc_tasks.inspection.kinds import SOMEWHERE, as_kind, decided, from_project
from aigc_tasks.inspection.look import AS_CLEAN, LARGEST, SHOWN, Look, counted, group, looked, reasons, shown
from aigc_tasks.knobs import validated

SMALLEST = 8  # clean takes less for too small
COARSE = 14  # pixels a side that a network sees, at least, where it sees squares of pixels as one
MARGIN = 1.2  # times the share that must survive cleaning; what looks like less is expected to fail
LEAST = splitting.LEAST * len(splitting.SPLITS)  # pictures that can be divided into splits
RECIPE = "-diffusion"  # what the name of the recipe that it suggests ends in


def add(name: str, place: str, stand: Path, labels: str | None, size: int | None, kind: str | None) -> str:
    """Look at ``place`` and write ``datasets.NAME`` into ``params.yaml``; returns what was found and what comes next.

    Relative paths are meant from the folder ``stand``. On an error, which is a ``UserError``, nothing is written.
    """
    where = f"{layout.PARAMS}: datasets.{name}"
    if not recipe.NAME.fullmatch(f"{name}{RECIPE}"):
        longest = recipe.LONGEST - len(RECIPE)
        raise UserError(f"{name}: a name is made of a-z, 0-9, - and _, {longest} of them at most; choose another")
    in_use = UserError(
        f"{where}: is in use already; choose another name, or bring it up to date: aigc data update {name}"
    )
    if name in recipe.read(layout.PARAMS)["datasets"]:
        raise in_use
    if not place:  # as of a variable that is not set; the project's own folder would be taken
        raise UserError(f"the source has no name; {SOMEWHERE}")
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
    if not catalogue.put({"datasets": {name: {"acquire": section, "clean": cleaning, "features": {}}}}):
        raise in_use  # since the look began
    head = f"{name}  {places.shown(place) if places.is_url(place) else place}, of kind {section['kind']}"
    return f"{head}\n{said(look)}\n\n{following(name, look, cleaning)}"


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
    placed = look.splits["val"] + look.splits["test"]
    if look.entries - look.flaws.total() - placed < splitting.LEAST <= placed:
        found.append(f"the source places all in val or test, and none to train on; {splitting.UNPLACED}")
    if len(look.labels) > 1 and look.labels.total() < 4 * len(look.labels):
        found.append(
            "hardly more pictures than classes; if folders are no classes, set `labels: false` below `acquire:`"
        )
    return found


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
            f"    dataset: {quoted(name)}",
            "    family: diffusion",
            "    network: unet",
            f"    model: {{width: {16 if side < 2 * COARSE else 32}, patch: {patch}}}",
            "    train: {}",
            "    postprocess: {}",
            "    evaluate: {}",
        ]
    )


def quoted(name: str) -> str:
    """The name as YAML has to have it for a text: 2024 and true are none without quotes."""
    line = io.StringIO()
    YAML().dump([name], line)
    return line.getvalue().removeprefix("- ").strip()
