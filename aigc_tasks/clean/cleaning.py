"""Check every sample, drop what must not be learned from, divide the rest into splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from aigc_tasks import acquire, layout
from aigc_tasks.clean import Knobs
from aigc_tasks.clean.arrays import SPLITS, in_order
from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image
from aigc_tasks.recipe import dataset

Row = dict[str, Any]

MISFIT = "size differs"  # how ``image.flaw`` begins
FIRST = {"test": 0, "val": 1}  # a source's own splits, in the order in which they keep what is in both


def clean(name: str) -> None:
    """The stage: ``data/raw/NAME`` to ``data/clean/NAME``."""
    settings = dataset(name)
    samples = settings.acquire.samples(layout.raw(name))
    manifest, images = checked(samples, settings.clean.size, settings.clean.colour)
    misfits = manifest["reason"].str.startswith(MISFIT, na=False).sum()
    if misfits > len(manifest) / 2:
        raise UserError(
            f"{layout.PARAMS}: datasets.{name}.clean.size: {misfits} of {len(manifest)} images have another size than "
            "the first; set it, for example to 64, to have all resized and cropped to so many pixels a side"
        )
    if len(images) < len(SPLITS):
        raise UserError(f"{layout.raw(name)}: fewer than {len(SPLITS)} usable samples; look at the source's files")
    manifest = divided(manifest, settings.clean)
    channels = max(map(len, images.values()))
    with layout.written_whole(layout.clean(name)) as folder:
        for split in SPLITS:
            rows = manifest.index[manifest["split"] == split]
            np.save(folder / f"{split}.npy", np.stack([image.coloured(images[row], channels) for row in rows]))
        manifest.to_parquet(folder / "manifest.parquet", index=False)
        report = summary(manifest)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"clean {name}  {report['kept']} of {report['samples']} samples kept, {report['splits']}")


def checked(
    samples: Iterator[acquire.Sample], size: int | None = None, colour: str = "auto"
) -> tuple[pd.DataFrame, dict[int, np.ndarray]]:
    """A manifest row per sample, and the pictures of the rows that are kept; ``reason`` says why a sample is dropped.

    Pictures have the size and the colour asked for; by ``auto`` each stays grey or colour as it is. The source's own
    test and val samples come first, so that a duplicate between its splits is dropped from training.
    """
    found: list[tuple[Row, np.ndarray | None]] = []
    side: tuple[int, ...] | None = None
    for sample in samples:
        digest, reason, small = None, sample.flaw, None
        if sample.image is not None:
            digest = hashlib.sha256(repr(sample.image.shape).encode() + sample.image.tobytes()).hexdigest()
            small = suited(sample.image, size, colour)
            side = side or small.shape[1:]
            reason = reason or image.flaw(small, (len(small), *side))
        row: Row = {"id": sample.id, "source": sample.source, "sha256": digest, "label": sample.label,
                    "split": sample.split, "row": None, "reason": reason}  # fmt: skip
        found.append((row, small if reason is None else None))
    found.sort(key=lambda pair: FIRST.get(pair[0]["split"], len(FIRST)))
    seen: dict[str, str] = {}
    images: dict[int, np.ndarray] = {}
    for number, (row, small) in enumerate(found):
        if small is not None and row["sha256"] in seen:
            row["reason"] = f"duplicate of {seen[row['sha256']]}"
        elif small is not None:
            seen[row["sha256"]] = row["id"]
            images[number] = small
    columns = ["id", "source", "sha256", "label", "split", "row", "reason"]
    manifest = pd.DataFrame([row for row, _ in found], columns=columns)
    return manifest.astype({"label": "str", "split": "str", "reason": "str"}), images


def suited(picture: np.ndarray, size: int | None, colour: str) -> np.ndarray:
    """A source's picture in the size and the colour asked for."""
    if picture.dtype != np.uint8:
        return picture  # a flaw, which is found later
    if colour != "auto":
        picture = image.coloured(picture, {"grey": 1, "rgb": 3}[colour])
    return image.fitted(picture, size) if size else picture


def divided(manifest: pd.DataFrame, knobs: Knobs) -> pd.DataFrame:
    """The manifest with ``split`` and ``row`` filled in for kept samples and empty for dropped ones.

    Stratified: the shares hold within every class. Stable: a sample's place depends on its content and on the seed,
    not on the order of files. A test or val split that the source brings is kept as it is.
    """
    manifest = manifest.copy()
    kept = manifest["reason"].isna()
    given = kept & manifest["split"].isin(FIRST)
    order = [hashlib.sha256(f"{knobs.seed}/{digest}".encode()).hexdigest() for digest in manifest["sha256"]]
    manifest["order"] = order
    brought = manifest["split"].where(given)
    shares = {"val": knobs.val, "test": knobs.test}
    shares = {split: share for split, share in shares.items() if split not in set(brought)}
    manifest["split"] = brought
    for _, members in manifest[kept & ~given].fillna({"label": ""}).groupby("label"):
        ranked = list(members.sort_values("order").index)
        for split, share in shares.items():
            count = round(share * len(members))
            manifest.loc[ranked[:count], "split"] = split
            ranked = ranked[count:]
        manifest.loc[ranked, "split"] = "train"
    manifest["row"] = manifest.groupby("split").cumcount().where(manifest["split"].notna()).astype("Int64")
    missing = [split for split in SPLITS if (manifest["split"] == split).sum() < 2]
    if missing:
        raise UserError(
            f"{layout.PARAMS}: clean: fewer than two samples are left for {missing[0]}; add data or change the shares"
        )
    return manifest.drop(columns="order")


def summary(manifest: pd.DataFrame) -> dict[str, Any]:
    """Counts: samples, kept, dropped by reason, per split, per class and split."""
    kept = manifest[manifest["split"].notna()]
    reasons = manifest["reason"].dropna().str.replace(r" of .*", "", regex=True)
    table = pd.crosstab(kept["label"], kept["split"]).reindex(columns=SPLITS, fill_value=0)
    return {
        "samples": len(manifest),
        "kept": len(kept),
        "dropped": {reason: int(count) for reason, count in reasons.value_counts().sort_index().items()},
        "splits": {split: int((kept["split"] == split).sum()) for split in SPLITS},
        "classes": {label: table.loc[label].to_dict() for label in in_order(set(table.index))},
    }
