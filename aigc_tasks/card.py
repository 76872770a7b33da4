"""What a trained model says of itself, beside its weights: ``model.json``. Read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aigc_tasks.errors import UserError

SETTINGS = "postprocess.json"  # beside the weights of a product: what its recipe does to samples
REFERENCE = "reference"  # a folder there: what samples are chosen by


@dataclass(frozen=True)
class Card:
    """What ``model.json`` holds."""

    recipe: str
    dataset: str
    family: str
    network: str
    model: dict[str, Any]  # the family's knobs
    shape: tuple[int, int, int]  # C, H, W
    classes: list[str]  # that can be asked for; empty if the model knows no labels
    counts: list[int]  # training images per class
    fingerprint: str  # of the training's inputs: data, params, code
    levels: list[int] = field(default_factory=list)  # of pixels, where the training images have few; else none


def read_card(folder: Path) -> Card:
    """Raises ``UserError`` where there is no model."""
    try:
        card = json.loads((folder / "model.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no trained model; run `dvc repro train@{folder.name}`") from None
    return Card(**{**card, "shape": tuple(card["shape"])})


def proportional(counts: list[int], total: int) -> np.ndarray:
    """``total`` class numbers, sorted, in the proportions of ``shares(counts)`` as nearly as whole numbers allow."""
    places = (np.arange(total) + 0.5) / total
    return np.searchsorted(np.cumsum(shares(counts))[:-1], places, side="right")


def shares(counts: list[int]) -> np.ndarray:
    """The classes' shares in what the training images were drawn from, estimated from how many of each there are.

    Counts that differ no more than chance lets them are taken for equal, clear differences for what they are: the
    James–Stein estimate that shrinks towards equal shares (Hausser & Strimmer 2009, JMLR 10:1469). Copying the chance
    of one split into every batch of samples would be measured as a lack of quality against another split.
    """
    total = np.asarray(counts, np.float64)
    known, number = total > 0, total.sum()
    found, equal = total / number, known / known.sum()
    spread = (number - 1) * ((equal - found) ** 2).sum()
    shrink = min(1.0, (1 - (found**2).sum()) / spread) if spread > 0 else 1.0
    return shrink * equal + (1 - shrink) * found
