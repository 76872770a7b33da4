"""Judge the table of what was found as a whole, and write what is kept and an account of everything."""

from __future__ import annotations

import json
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from aigc_tasks import layout
from aigc_tasks.acquire import raw
from aigc_tasks.clean import Knobs, duplicates, outliers, profile, report, schema, splitting, writing
from aigc_tasks.clean.arrays import in_order
from aigc_tasks.clean.parts import Parts
from aigc_tasks.errors import UserError

COLUMNS = [
    "id", "source", "sha256", "file_sha256", "label", "split", "row", "reason", "flags",
    "width", "height", "mode", "brightness", "contrast", "near", "outlier",
]  # fmt: skip
NULLABLE = {pa.int32(): pd.Int32Dtype(), pa.int8(): pd.Int8Dtype()}  # what a picture without pixels has none of
SHOWN = 8  # examples of one reason in the report
PAIRED = 12  # pairs of near duplicates there
DIGITS = 3  # of a distance; the last bits depend on how many are computed at once


def judge(name: str, knobs: Knobs, found: pa.Table, paths: list[Path]) -> None:
    """Write ``data/clean/NAME`` and ``reports/data/NAME.html``.

    ``found``, which is used up, has a row per entry, in the order of the ids; its column ``chunk`` says which of
    ``paths`` the pixels belong to. Raises ``UserError`` where too little is left.
    """
    memory = pa.default_memory_pool()
    rows = found.to_pandas(split_blocks=True, self_destruct=True, types_mapper=NULLABLE.get)
    parts = Parts(paths, rows["chunk"].to_numpy(), rows["place"].to_numpy())
    memory.release_unused()  # here and below: C's library would keep what is free for the next of the same size
    brought = rows["split"].isin(["val", "test"])
    rows["split"] = splitting.assigned(rows, knobs)
    duplicates.mark(rows, knobs, parts.pixels)
    score(rows, knobs, parts)
    try:
        trouble = unusable(rows, knobs, name)
        if trouble is None:
            splitting.numbered(rows, knobs, brought)
    except UserError as error:
        trouble = str(error)
    if trouble is not None:
        rows["row"] = pd.Series(pd.NA, rows.index, "Int64")
    folder = layout.raw(name)
    versions = raw.versions(folder)
    manifest = rows[COLUMNS]
    page = report.page(name, manifest, pictures(rows, parts), versions, raw.last_changes(folder), trouble)
    layout.replace(layout.data_report(name), page)
    memory.release_unused()
    if trouble is not None:
        raise UserError(f"{trouble}; see {layout.data_report(name)}")
    schema.validated(manifest, knobs.checks.duplicate != "drop")
    said = {**report.summary(manifest), "digest": versions[-1]["digest"]}
    memory.release_unused()
    with layout.written_whole(layout.clean(name)) as target:
        layout.replace(target / "report.json", json.dumps(said, indent=2, ensure_ascii=False) + "\n")
        profile.write(target / "profile.npz", described(rows, parts))
        writing.write(rows, parts, target)
        memory.release_unused()
        save(manifest, target / "manifest.parquet")
    print(f"clean {name}  {said['kept']} of {said['samples']} samples kept, {said['splits']}")


def unusable(rows: pd.DataFrame, knobs: Knobs, name: str) -> str | None:
    """Why what is left is too little to go on with, None if it is enough."""
    dropped = rows["reason"].dropna()
    where = f"{layout.PARAMS}: datasets.{name}.clean"
    misfits = int(dropped.str.startswith("size differs").sum())
    if misfits > len(rows) / 2:
        return (
            f"{where}.size: {misfits} of {len(rows)} images have another size than the first; "
            "set it, for example to 64, to have all resized and cropped to so many pixels a side"
        )
    kept = len(rows) - len(dropped)
    if kept < knobs.survive * len(rows) or not kept:
        most = report.group(dropped).value_counts()
        return (
            f"{where}.survive: {kept} of {len(rows)} entries are usable, at least {knobs.survive:.0%} must be; most "
            f"others: {most.index[0]} ({most.iloc[0]}); mend the source, or the checks in params.yaml"
        )
    return None


def score(rows: pd.DataFrame, knobs: Knobs, parts: Parts) -> None:
    """Fill in ``outlier``, the distance to the middle of what is kept, and judge it."""
    rows["outlier"] = pd.Series(np.nan, rows.index, "float32")
    kept = rows.index[rows["reason"].isna()].to_numpy()
    if knobs.checks.outlier == "off" or len(kept) <= 2 * profile.DIMENSIONS:
        return
    distance = outliers.Distance(parts.embedding(drawn(rows["key"], kept, outliers.FITTED)))
    for found, embeddings in parts.embeddings(kept):
        rows.loc[found, "outlier"] = distance(embeddings).round(DIGITS).astype(np.float32)
    far = kept[rows.loc[kept, "outlier"] > distance.limit]
    if knobs.checks.outlier == "drop":
        rows.loc[far, "reason"] = "outlier"
    else:
        rows.loc[far, "flags"] = [f"{old}; outlier" if old else "outlier" for old in rows.loc[far, "flags"]]


def drawn(keys: pd.Series, rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the rows, in order: those of the lowest hashes, which is as good as by chance."""
    return np.sort(rows[np.argsort(keys.to_numpy()[rows], kind="stable")[:count]])


def save(manifest: pd.DataFrame, path: Path) -> None:
    """Write the manifest, some thousand rows at a time."""
    with pq.ParquetWriter(path, pa.Schema.from_pandas(manifest.head(0), preserve_index=False)) as file:
        for at in range(0, len(manifest), schema.PORTION):
            portion = manifest.iloc[at : at + schema.PORTION]
            file.write(pa.Table.from_pandas(portion, preserve_index=False, nthreads=1))  # each thread has its own heap


def described(rows: pd.DataFrame, parts: Parts) -> profile.Profile:
    """What drift is measured against: figures of some of what is kept, and the counts of all."""
    usable = rows["reason"].isna()
    kept = rows.index[usable].to_numpy()
    some = rows.loc[drawn(rows["key"], kept, profile.MOST)]
    labels = rows["label"].where(usable).dropna()
    classes = in_order(set(labels.unique()))
    numbers = {label: number for number, label in enumerate(classes)}
    counts = labels.value_counts().reindex(classes) if classes else pd.Series([len(kept)])
    return profile.Profile(
        embedding=parts.embedding(some.index.to_numpy()),
        statistics=np.ascontiguousarray(some[["width", "height", "brightness", "contrast"]], np.float32),
        labels=some["label"].map(numbers).fillna(0).to_numpy(np.int64),
        classes=classes,
        counts=counts.to_numpy(np.int64),
        digest=profile.digest(compress(rows["sha256"], usable), compress(rows["label"].fillna(""), usable)),
        shas=some["sha256"].to_list(),
    )


def pictures(rows: pd.DataFrame, parts: Parts) -> report.Pictures:
    """The examples that the report shows, the first of each sort."""
    shown = rows.loc[rows["place"] >= 0, ["id", "label", "reason", "flags", "near"]]
    dropped = examples(shown.assign(group=report.group(shown["reason"])), "group", SHOWN)
    flags = shown.loc[shown["reason"].isna() & (shown["flags"] != ""), "flags"].str.split("; ").explode()
    flagged = examples(pd.DataFrame({"group": report.group(flags)}), "group", SHOWN)
    named = {line["label"] for line in report.classes(rows)["lines"]}  # of thousands of classes the page shows some
    good = shown[shown["reason"].isna()].fillna({"label": ""})
    kept = examples(good[good["label"].isin(named)], "label", SHOWN)
    near = shown[shown["reason"].str.startswith("near duplicate", na=False)].head(PAIRED)
    named_twins = rows["id"][rows["id"].isin(near["near"])]
    number = pd.Series(named_twins.index, named_twins)
    twins = dict(zip(near.index.tolist(), number[near["near"]].tolist(), strict=True))
    wanted = {row for sort in (dropped, flagged, kept) for group in sort.values() for row in group}
    wanted |= {*twins, *twins.values()}
    found = {
        int(row): one for some, pixels in parts.pixels(np.array(sorted(wanted), int))
        for row, one in zip(some, pixels, strict=True)
    }  # fmt: skip
    ids = rows["id"]
    return report.Pictures(
        dropped={name: [(ids[row], found[row]) for row in group] for name, group in dropped.items()},
        pairs=[(ids[row], found[row], ids[twin], found[twin]) for row, twin in twins.items()],
        flagged={name: [(ids[row], found[row]) for row in group] for name, group in flagged.items()},
        kept={name: [found[row] for row in group] for name, group in kept.items()},
    )


def examples(rows: pd.DataFrame, column: str, count: int) -> dict[str, list[int]]:
    """The first ``count`` rows of each value of the column."""
    return {str(name): [int(row) for row in group.index[:count]] for name, group in rows.groupby(column)}
