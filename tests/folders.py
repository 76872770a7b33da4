"""What becomes of a folder of pictures, or of an archive, that is taken in and cleaned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import Project
from pictures import encoded, noise
from ruamel.yaml import YAML

from aigc_tasks import layout
from aigc_tasks.acquire import folder, raw
from aigc_tasks.acquire.__main__ import acquire
from aigc_tasks.acquire.intake import take_in
from aigc_tasks.clean import arrays
from aigc_tasks.clean.cleaning import clean

# Two class folders of 20 pictures.
TREE = {f"{name}/{seed}.png": encoded(noise(seed + 100 * len(name))) for name in ("cat", "horse") for seed in range(20)}


def fetched(place: Path, data: Path, labels: bool | str | None = None, largest: int = 64) -> list[raw.Row]:
    """What is brought from ``place``."""
    shutil.rmtree(data, ignore_errors=True)
    source = folder.Source(kind="folder", source=str(place), labels=labels, largest=largest)
    take_in(source, data / "raw/pics", data / "work")
    return [row for chunk in raw.chunks(data / "raw/pics") for row in raw.read(data / "raw/pics", chunk)]


def flaws(rows: list[raw.Row]) -> dict[str, str | None]:
    return {row.id: row.flaw for row in rows}


def through(place: Path, labels: bool | None = None, **knobs: Any) -> tuple[arrays.Clean, pd.DataFrame]:
    """Run the two stages on a place, in the folder where this process works; the data set and its manifest by id."""
    source = {"kind": "folder", "source": str(place)} | ({} if labels is None else {"labels": labels})
    table = {"datasets": {"pics": {"acquire": source, "clean": knobs, "features": {}}}, "recipes": {}}
    YAML().dump(table, layout.PARAMS)
    acquire("pics")
    clean("pics")
    place = layout.clean("pics")
    return arrays.load(place), pd.read_parquet(place / "manifest.parquet").set_index("id")


def add(project: Project, source: Path, **knobs: Any) -> None:
    """A data set ``wild`` of a folder."""
    entry = {"acquire": {"kind": "folder", "source": str(source)}, "clean": {"size": 32, **knobs}, "features": {}}
    project.edit(lambda params: params["datasets"].update({"wild": entry}))


def manifest(project: Project) -> pd.DataFrame:
    """What became of its entries, by id."""
    return pd.read_parquet(project.path / "data/clean/wild/manifest.parquet").set_index("id")
