"""Divide into train, val and test, so that a sample's place never changes while the data set grows."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from aigc_tasks import layout
from aigc_tasks.clean import Knobs
from aigc_tasks.clean.arrays import SPLITS
from aigc_tasks.errors import UserError

LEAST = 2  # samples of a split, without which nothing can be measured in it
UNPLACED = "add those to train on, or rename the folders, files or columns that say so"


def assigned(rows: pd.DataFrame, knobs: Knobs) -> pd.Series:
    """The split of every row with pixels. A test or val split that the source brings is kept as it is.

    All others are divided by a hash of their file's bytes and the seed: the place of one depends on no other sample,
    nor on its name, the order of files, or the size asked for. The shares hold as well as chance allows.
    """
    usable = rows["sha256"].notna()
    brought = rows["split"].where(usable & rows["split"].isin(["val", "test"]))
    shares = {"val": knobs.val, "test": knobs.test}
    shares = {split: share for split, share in shares.items() if not (brought == split).any()}
    lots = (lot(digest, knobs.seed) if isinstance(digest, str) else 1.0 for digest in rows["file_sha256"])
    place = np.fromiter(lots, np.float64, len(rows))
    ends = np.cumsum([*shares.values()])
    drawn = pd.Series(np.array([*shares, "train"], object)[np.searchsorted(ends, place, "right")], rows.index, "str")
    return brought.where(brought.notna(), drawn).where(usable).astype("str")


def lot(digest: str, seed: int) -> float:
    """A number in [0, 1) that the digest draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{digest}".encode()).digest()[:6]) / 2**48


def numbered(rows: pd.DataFrame, knobs: Knobs, brought: pd.Series) -> None:
    """Take the split from what is dropped, and number the rest, in order, within each split. Raises ``UserError``.

    In a set of some dozen samples chance may leave a split empty: then it gets some of those that the source has not
    placed itself (``brought``), which may come back when the set has grown.
    """
    kept = rows["reason"].isna()
    rows["split"] = rows["split"].where(kept).astype("str")
    free = kept & ~brought
    for split in ("test", "val", "train"):
        while free.sum() >= LEAST * len(SPLITS) and (rows["split"] == split).sum() < LEAST:
            most = rows.index[free & (rows["split"] == rows["split"][free].value_counts().idxmax())]
            rows.loc[min(most, key=lambda row: lot(str(rows.loc[row, "file_sha256"]), knobs.seed)), "split"] = split
    missing = [split for split in SPLITS if (rows["split"] == split).sum() < LEAST]
    if missing:
        mend = "add data or change the shares `val` and `test`"
        if free.sum() < LEAST <= (kept & brought).sum():  # as where only the test files of a set were downloaded
            mend = f"its source itself places all others in val or test; {UNPLACED}"
        raise UserError(f"{layout.PARAMS}: clean: fewer than {LEAST} samples are left for {missing[0]}; {mend}")
    rows["row"] = rows.groupby("split").cumcount().where(kept).astype("Int64")
