"""A look at some of a source's entries, as clean would see them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from aigc_tasks import acquire, clean
from aigc_tasks.acquire import intake, raw, reading
from aigc_tasks.clean import decoding, looking, profile
from aigc_tasks.errors import UserError
from aigc_tasks.inspection.kinds import SOMEWHERE
from aigc_tasks.progress import progress

LOOKED = 200  # entries, at most
LARGEST = 64  # pixels a side of a chosen size: what a CPU trains in an hour
SHOWN = 8  # classes and problems named before "…"
AS_CLEAN = clean.Knobs.model_validate({"size": LARGEST})


class Look(NamedTuple):
    """What a source holds. ``labels``, ``splits`` and ``flaws`` count all entries, ``sample`` has a row for some."""

    entries: int
    labels: Counter[str]
    splits: Counter[str]
    flaws: Counter[str]
    sample: pd.DataFrame  # as clean sees them: width, height, mode (empty if it is no picture), reason, flags, sha256

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
    sample = pd.DataFrame(found, columns=["width", "height", "mode", "reason", "flags", "sha256"])
    sample.loc[sample["reason"].isna() & sample.duplicated("sha256"), "reason"] = "duplicate"
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
