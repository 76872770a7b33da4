"""What holds in every manifest: its columns, their types and ranges, and how they depend on each other."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pandera.pandas as pa

from aigc_tasks.clean.arrays import SPLITS, keys

SHOWN = 3  # ids per broken rule in the error
PORTION = 10_000  # rows that are looked at at a time, which copies them

sha256 = pa.Check.str_matches(r"^[0-9a-f]{64}\Z", error="64 hexadecimal digits")
COLUMNS = {
    "id": pa.Column(str),
    "source": pa.Column(str),
    "sha256": pa.Column(str, sha256, nullable=True),
    "file_sha256": pa.Column(str, sha256, nullable=True),
    "label": pa.Column(str, nullable=True),
    "split": pa.Column(str, pa.Check.isin(SPLITS), nullable=True),
    "row": pa.Column("Int64", pa.Check.ge(0), nullable=True),
    "reason": pa.Column(str, pa.Check.str_length(min_value=1), nullable=True),
    "flags": pa.Column(str),
    "width": pa.Column("Int32", pa.Check.gt(0), nullable=True),
    "height": pa.Column("Int32", pa.Check.gt(0), nullable=True),
    "mode": pa.Column(str, nullable=True),
    "brightness": pa.Column("float32", pa.Check.in_range(0, 255), nullable=True),
    "contrast": pa.Column("float32", pa.Check.in_range(0, 127.5), nullable=True),
    "near": pa.Column(str, nullable=True),
    "outlier": pa.Column("float32", nullable=True),
}


def divided(manifest: pd.DataFrame) -> pd.Series:
    """A kept sample has its place in a split, a dropped one has none."""
    kept = manifest["reason"].isna()
    return (manifest["split"].notna() == kept) & (manifest["row"].notna() == kept)


def measured(manifest: pd.DataFrame) -> pd.Series:
    """What was decoded has a size; what is kept was decoded and measured."""
    decoded = manifest["sha256"].notna()
    size = manifest[["width", "height"]].notna().all(axis=1)
    known = manifest[["sha256", "mode", "brightness", "contrast"]].notna().all(axis=1)
    return (size | ~decoded) & (known | manifest["reason"].notna())


def numbered(manifest: pd.DataFrame) -> pd.Series:
    """A split of n samples has the rows 0 … n-1, each once."""
    rows = manifest.groupby("split")["row"]
    twice = manifest["split"].notna() & manifest.duplicated(["split", "row"])
    return ~twice & ~(manifest["row"] >= rows.transform("size")).fillna(False).astype(bool)


def twinned(manifest: pd.DataFrame) -> pd.Series:
    """A twin is another entry of the manifest."""
    near, ids = manifest["near"].dropna(), manifest["id"]
    known = near.isin(ids[ids.isin(near)]) & (near != ids[near.index])
    return known.reindex(manifest.index, fill_value=True)


def apart(manifest: pd.DataFrame) -> pd.Series:
    """No pixels are in two splits."""
    pixels = keys(manifest["sha256"])
    kept = pd.DataFrame({"pixels": pixels, "split": manifest["split"]})[manifest["reason"].isna()].drop_duplicates()
    shared = kept["pixels"][kept["pixels"].duplicated()]
    return manifest["reason"].notna() | ~pixels.isin(shared)


def single(manifest: pd.DataFrame) -> pd.Series:
    """No id is there twice."""
    return ~manifest["id"].duplicated(keep=False)


def checks(*rules: Callable[[pd.DataFrame], pd.Series]) -> list[pa.Check]:
    """A rule's docstring is what an error says."""
    return [pa.Check(rule, error=str(rule.__doc__)) for rule in rules]


ROWS = pa.DataFrameSchema(COLUMNS, checks(divided, measured), strict=True, ordered=True)
WHOLE = pa.DataFrameSchema(checks=checks(single, numbered, twinned))
STRICTER = pa.DataFrameSchema(checks=checks(apart))
pa.DataFrameSchema.register_default_backends(pd.DataFrame)  # which the first validation would wait for


def validated(manifest: pd.DataFrame, duplicates: bool = False) -> None:
    """Raise ``AssertionError`` if the manifest breaks a rule, which is a defect of the clean stage, not of the data.

    ``duplicates`` allows the same pixels in two splits, for a data set whose duplicates are not dropped.
    """
    try:
        for at in range(0, max(len(manifest), 1), PORTION):
            ROWS.validate(manifest.iloc[at : at + PORTION], lazy=True)
        WHOLE.validate(manifest[["id", "split", "row", "near"]], lazy=True)
        if not duplicates:
            STRICTER.validate(manifest[["sha256", "split", "reason"]], lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise AssertionError(readable(errors.failure_cases, manifest)) from None


def readable(failures: pd.DataFrame, manifest: pd.DataFrame) -> str:
    """A line per broken rule: what it is, how many rows break it, and some of their ids."""
    lines = []
    of_one = failures["schema_context"].eq("Column") & failures["column"].notna()
    rules = failures["column"].where(of_one).astype("str").add(": ").fillna("") + failures["check"].str.rstrip(".")
    for rule, cases in failures.groupby(rules, sort=False):
        rows = cases["index"].dropna().unique()
        where = ", ".join(map(repr, manifest["id"].loc[rows[:SHOWN]] if len(rows) else cases["failure_case"]))
        lines.append(f"{rule}; against it {f'{len(rows)} rows: ' if len(rows) else ''}{where}")
    return "the manifest is wrong, which is a defect of the clean stage:\n  " + "\n  ".join(lines)
