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


def clean(name: str) -> None:
    """The stage: ``data/raw/NAME`` to ``data/clean/NAME``."""
    settings = dataset(name)
    manifest, images = checked(settings.acquire.samples(layout.raw(name)))
    if manifest["reason"].isna().sum() < len(SPLITS):
        raise UserError(f"{layout.raw(name)}: fewer than {len(SPLITS)} usable samples; look at the source's files")
    manifest = divided(manifest, settings.clean)
    with layout.written_whole(layout.clean(name)) as folder:
        for split in SPLITS:
            np.save(
                folder / f"{split}.npy", np.stack([images[row] for row in manifest.index[manifest["split"] == split]])
            )
        manifest.to_parquet(folder / "manifest.parquet", index=False)
        report = summary(manifest)
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"clean {name}  {report['kept']} of {report['samples']} samples kept, {report['splits']}")


def checked(samples: Iterator[acquire.Sample]) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """A manifest row and a picture per sample; ``reason`` says why a sample is dropped, None if it is kept.

    The source's own test samples come first, so that a duplicate between its splits is dropped from training.
    """
    rows: list[Row] = []
    images: list[np.ndarray] = []
    seen: dict[str, str] = {}
    shape: tuple[int, ...] | None = None
    for sample in sorted(samples, key=lambda sample: sample.split != "test"):
        digest = hashlib.sha256(repr(sample.image.shape).encode() + sample.image.tobytes()).hexdigest()
        shape = shape or sample.image.shape
        reason = image.flaw(sample.image, shape)
        if reason is None and digest in seen:
            reason = f"duplicate of {seen[digest]}"
        seen.setdefault(digest, sample.id)
        rows.append({"id": sample.id, "source": sample.source, "sha256": digest, "label": sample.label,
                     "split": sample.split, "row": None, "reason": reason})  # fmt: skip
        images.append(sample.image)
    columns = ["id", "source", "sha256", "label", "split", "row", "reason"]
    return pd.DataFrame(rows, columns=columns).astype({"label": "str", "split": "str", "reason": "str"}), images


def divided(manifest: pd.DataFrame, knobs: Knobs) -> pd.DataFrame:
    """The manifest with ``split`` and ``row`` filled in for kept samples and empty for dropped ones.

    Stratified: the shares hold within every class. Stable: a sample's place depends on its content and on the seed,
    not on the order of files. A test split that the source brings is kept as it is.
    """
    manifest = manifest.copy()
    kept = manifest["reason"].isna()
    given = kept & (manifest["split"] == "test")
    order = [hashlib.sha256(f"{knobs.seed}/{digest}".encode()).hexdigest() for digest in manifest["sha256"]]
    manifest["order"] = order
    shares = {"val": knobs.val} if given.any() else {"val": knobs.val, "test": knobs.test}
    manifest["split"] = pd.Series(None, index=manifest.index, dtype="str")
    manifest.loc[given, "split"] = "test"
    for _, members in manifest[kept & ~given].fillna({"label": ""}).groupby("label"):
        ranked = list(members.sort_values("order").index)
        for split, share in shares.items():
            count = round(share * len(members))
            manifest.loc[ranked[:count], "split"] = split
            ranked = ranked[count:]
        manifest.loc[ranked, "split"] = "train"
    manifest["row"] = manifest.groupby("split").cumcount().where(manifest["split"].notna()).astype("Int64")
    missing = [split for split in SPLITS if not (manifest["split"] == split).any()]
    if missing:
        raise UserError(f"{layout.PARAMS}: clean: no samples are left for {missing[0]}; add data or change the shares")
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
