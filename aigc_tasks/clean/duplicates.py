"""What is there twice: exactly, almost, or under two labels.

Of twins the one stays that matters most for honest figures: test before val before train, so that no test image's twin
is learned from. Almost the same means that two perceptual hashes (Zauner 2010, by the library imagehash) differ by few
bits, and that the pictures, reduced to 16×16 grey pixels, correlate: hashes alone take two handwritten ones for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from PIL import Image

from aigc_tasks.clean import Knobs
from aigc_tasks.modalities import image

RANK = {"test": 0, "val": 1, "train": 2}
BITS = 64
SIDE = 16  # pixels of the reduced pictures
ALIKE = 0.985  # recompressed at quality 50 or to half the size, 95 % of CIFAR-10 correlate more

Gather = Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Rows to some of them and their pixels, uint8 N×C×H×W, until all were there."""


def mark(rows: pd.DataFrame, knobs: Knobs, gather: Gather) -> None:
    """Fill in ``reason``, ``flags`` and ``near`` of what is there twice. What is usable has a split already."""
    rows["near"] = pd.Series(pd.NA, rows.index, "str")
    usable = rows.index[rows["reason"].isna()].to_numpy()
    order = usable[np.lexsort((usable, rows["split"].map(RANK).to_numpy()[usable]))]
    if knobs.checks.label_conflict != "off":
        order = order[~conflicts(rows, order, knobs.checks.label_conflict)]
    if knobs.checks.duplicate != "off":
        twins = earliest(rows, order)
        again = twins != order
        follow(rows, order[again], twins[again], knobs.checks.duplicate, "duplicate of")
        order = order[~again]
    if knobs.checks.near_duplicate != "off":
        near = pairs(rows, order, knobs.distance, gather)
        again = np.fromiter(near, np.int64, len(near))
        twins = np.fromiter(near.values(), np.int64, len(near))
        follow(rows, again, twins, knobs.checks.near_duplicate, "near duplicate of")


def follow(rows: pd.DataFrame, again: np.ndarray, twins: np.ndarray, policy: str, words: str) -> None:
    """Drop or flag the rows ``again``, each of which is like its twin."""
    if not len(again):
        return
    ids = rows.loc[twins, "id"].to_numpy()
    rows.loc[again, "near"] = ids
    if policy == "drop":
        rows.loc[again, "reason"] = [f"{words} {twin}" for twin in ids]
    else:
        flag = words.rpartition(" ")[0]  # without the twin, whose name is a stranger's and may hold a separator
        rows.loc[again, "flags"] = [f"{old}; {flag}" if old else flag for old in rows.loc[again, "flags"]]


def earliest(rows: pd.DataFrame, order: np.ndarray) -> np.ndarray:
    """To each row the first of ``order`` with the same pixels: those of the same key, the first 64 bits of SHA-256."""
    _, first, place = np.unique(rows["key"].to_numpy()[order], return_index=True, return_inverse=True)
    return order[first[place]]


def conflicts(rows: pd.DataFrame, order: np.ndarray, policy: str) -> np.ndarray:
    """Which of ``order`` were dropped, as the same pixels stand under another label too."""
    twins = earliest(rows, order)
    doubtful = np.isin(twins, twins[twins != order])
    members = pd.DataFrame({"twin": twins[doubtful], "label": rows.loc[order[doubtful], "label"].to_numpy()})
    members = members.set_axis(order[doubtful]).dropna()
    dropped: list[int] = []
    for _, group in members.groupby("twin"):
        if group["label"].nunique() > 1:
            others = [group.index[(group["label"] != label).to_numpy()][0] for label in group["label"]]
            follow(rows, group.index.to_numpy(), np.array(others), policy, "label conflict with")
            dropped.extend(group.index)
    return np.isin(order, dropped) if policy == "drop" else np.zeros(len(order), bool)


def pairs(rows: pd.DataFrame, order: np.ndarray, distance: int, gather: Gather) -> dict[int, int]:
    """Row to the row that it is almost the same as, which stays; ``order`` says which of two stays."""
    order = order[rows.loc[order, "hash"].to_numpy() != 0]
    first, second = candidates(rows.loc[order, "hash"].to_numpy(np.uint64), distance)
    if not len(first):
        return {}
    needed = np.unique(np.concatenate([order[first], order[second]]))
    small = np.empty((len(needed), SIDE * SIDE), np.uint8)
    for some, pixels in gather(needed):
        small[np.searchsorted(needed, some)] = [reduced(one) for one in pixels]
    left, right = np.searchsorted(needed, order[first]), np.searchsorted(needed, order[second])
    alike = np.concatenate(
        [correlation(small[left[at : at + 4096]], small[right[at : at + 4096]]) for at in range(0, len(left), 4096)]
    )
    twin: dict[int, int] = {}
    for stays, goes in sorted(zip(first[alike >= ALIKE].tolist(), second[alike >= ALIKE].tolist(), strict=True)):
        if order[stays] not in twin:
            twin.setdefault(int(order[goes]), int(order[stays]))
    return twin


def candidates(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair i < j of uint64 hashes that differ in at most ``distance`` bits.

    Cut into one band more than bits may differ, two such hashes agree in one band at least (the pigeonhole principle;
    multi-index hashing, Norouzi et al. 2012): only within equal bands are pairs compared.
    """
    found: set[tuple[int, int]] = set()
    for band in range(distance + 1):
        bits = np.uint64(sum(1 << bit for bit in range(band, BITS, distance + 1)))
        order = np.argsort(hashes & bits, kind="stable")
        keys, apart = (hashes & bits)[order], 1
        same = np.arange(len(keys) - 1)
        while len(same := same[same + apart < len(keys)]) and len(same := same[keys[same] == keys[same + apart]]):
            one, other = order[same], order[same + apart]
            close = np.bitwise_count(hashes[one] ^ hashes[other]) <= distance
            found.update(zip(one[close].tolist(), other[close].tolist(), strict=True))
            apart += 1
    both = np.array(sorted(found), np.int64).reshape(-1, 2)  # a stable sort leaves i before j
    return both[:, 0], both[:, 1]


def reduced(pixels: np.ndarray) -> np.ndarray:
    """uint8 C×H×W as SIDE×SIDE grey pixels in one row."""
    return np.asarray(image.picture(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's r of each row of ``first`` with the same row of ``second``; 1 between rows of one level alone."""
    one, other = (x - x.mean(axis=1, keepdims=True, dtype=np.float32) for x in (first, second))
    spread = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return np.where(spread > 0, (one * other).sum(axis=1) / np.maximum(spread, 1e-9), 1.0)
