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
ROUNDS = 3  # in which equal hashes are compared
BUCKET = 500  # hashes that follow in a bucket, with which one is compared
BLOCK = 4096  # pairs of pictures at a time

Gather = Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Rows to some of them and their pixels, uint8 N×C×H×W, until all were there."""


def mark(rows: pd.DataFrame, knobs: Knobs, gather: Gather) -> None:
    """Fill in ``reason``, ``flags`` and ``near`` of what is there twice. What is usable has a split already."""
    rows["near"] = pd.Series(pd.NA, rows.index, "str")
    usable = rows.index[rows["reason"].isna()].to_numpy()
    places, splits = pd.factorize(rows.loc[usable, "split"])
    ranks = np.array([RANK[split] for split in splits], int)[places]
    order = usable[np.lexsort((usable, ranks))]
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
            first, labels = group.index[0], group["label"].to_numpy()
            other = group.index[labels != labels[0]][0]
            others = np.where(labels == labels[0], other, first)
            follow(rows, group.index.to_numpy(), others, policy, "label conflict with")
            dropped.extend(group.index)
    return np.isin(order, dropped) if policy == "drop" else np.zeros(len(order), bool)


def pairs(rows: pd.DataFrame, order: np.ndarray, distance: int, gather: Gather) -> dict[int, int]:
    """Row to the row that it is almost the same as, which stays; ``order`` says which of two stays.

    First those of equal hashes are compared, each with the first of them, so that a thousand frames of one scene are a
    thousand comparisons; then what is left, among its close hashes.
    """
    hashes = rows["hash"].to_numpy(np.uint64)
    twin: dict[int, int] = {}
    left, kept = order[hashes[order] != 0], []
    for _ in range(ROUNDS):
        _, first, place = np.unique(hashes[left], return_index=True, return_inverse=True)
        leader = left[first[place]]
        others = np.flatnonzero(leader != left)
        alike = compared(left[others], leader[others], gather)
        twin |= zip(left[others[alike]].tolist(), leader[others[alike]].tolist(), strict=True)
        kept.append(left[leader == left])
        left = left[others[~alike]]
    kept.append(left)
    order = order[np.isin(order, np.concatenate(kept))]
    first, second = candidates(hashes[order], distance)
    alike = compared(order[first], order[second], gather)
    for stays, goes in zip(order[first[alike]].tolist(), order[second[alike]].tolist(), strict=True):
        if stays not in twin:
            twin.setdefault(goes, stays)
    return {row: resolved(twin, row) for row in twin}


def resolved(twin: dict[int, int], row: int) -> int:
    """The one that stays at the end of a chain: a leader may have gone after its followers."""
    while row in twin:
        row = twin[row]
    return row


def compared(rows: np.ndarray, others: np.ndarray, gather: Gather) -> np.ndarray:
    """Whether each row's picture is almost that of the other row at the same place."""
    if not len(rows):
        return np.empty(0, bool)
    needed = np.unique(np.concatenate([rows, others]))
    small = np.empty((len(needed), SIDE * SIDE), np.uint8)
    for some, pixels in gather(needed):
        small[np.searchsorted(needed, some)] = [reduced(one) for one in pixels]
    left, right = np.searchsorted(needed, rows), np.searchsorted(needed, others)
    alike = np.empty(len(rows), bool)
    for at in range(0, len(rows), BLOCK):
        part = slice(at, at + BLOCK)
        alike[part] = correlation(small[left[part]], small[right[part]]) >= ALIKE
    return alike


def candidates(hashes: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs i < j of uint64 hashes that differ in at most ``distance`` bits, in order.

    Cut into one band more than bits may differ, two such hashes agree in one band at least (the pigeonhole principle;
    multi-index hashing, Norouzi et al. 2012): only within equal bands are pairs compared, there each with the
    ``BUCKET`` that follow it, which is all of them unless a set is crowded beyond reason.
    """
    found = [np.empty(0, np.uint64)]
    for band in range(distance + 1):
        bits = np.uint64(sum(1 << bit for bit in range(band, BITS, distance + 1)))
        order = np.lexsort((hashes, hashes & bits))
        keys, apart = (hashes & bits)[order], 1
        same = np.arange(len(keys) - 1)
        while apart <= BUCKET and len(same := same[same + apart < len(keys)]):
            same = same[keys[same] == keys[same + apart]]
            one, other = order[same], order[same + apart]
            close = np.bitwise_count(hashes[one] ^ hashes[other]) <= distance
            low, high = np.minimum(one, other)[close], np.maximum(one, other)[close]
            found.append(low.astype(np.uint64) << np.uint64(32) | high.astype(np.uint64))
            apart += 1
    both = np.unique(np.concatenate(found))
    return (both >> np.uint64(32)).astype(np.int64), (both & np.uint64(0xFFFFFFFF)).astype(np.int64)


def reduced(pixels: np.ndarray) -> np.ndarray:
    """uint8 C×H×W as SIDE×SIDE grey pixels in one row."""
    return np.asarray(image.picture(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's r of each row of ``first`` with the same row of ``second``; 1 between rows of one level alone."""
    one, other = (x - x.mean(axis=1, keepdims=True, dtype=np.float32) for x in (first, second))
    spread = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return np.where(spread > 0, (one * other).sum(axis=1) / np.maximum(spread, 1e-9), 1.0)
