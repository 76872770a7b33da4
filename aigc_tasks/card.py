"""What a trained model says of itself, beside its weights: ``model.json``. Read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aigc_tasks.errors import UserError


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


def read_card(folder: Path) -> Card:
    """Raises ``UserError`` where there is no model."""
    try:
        card = json.loads((folder / "model.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no trained model; run `dvc repro train@{folder.name}`") from None
    return Card(**{**card, "shape": tuple(card["shape"])})


def proportional(counts: list[int], total: int) -> np.ndarray:
    """``total`` class numbers in the proportions of ``counts``: evenly spaced places of the sorted training labels."""
    trained = np.repeat(np.arange(len(counts)), counts)
    places = (np.arange(total) + 0.5) / total * len(trained)
    return trained[places.astype(np.int64)]
