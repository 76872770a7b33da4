"""A product on disk: a model, and what its recipe does to its samples. Needs neither checkout nor tracking store.

Images are made in batches that fit memory. Each batch has a seed of its own, so that a generation that was stopped goes
on with the next one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from aigc_tasks import compute, families, postprocess
from aigc_tasks.card import REFERENCE, SETTINGS, proportional, shares
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import suggestion, validated
from aigc_tasks.model import Sampler
from aigc_tasks.postprocess.making import Made, Reference, made

BATCH = 256  # images; part of the result, so a constant


@dataclass(frozen=True)
class Batch:
    """Number, from 0, and images uint8 N×C×H×W with their class numbers N."""

    number: int
    images: np.ndarray
    labels: np.ndarray


class Maker:
    """A model in a folder, and what its recipe does to its samples.

    ``options`` are knobs of the family's sampler that take the place of the recipe's; raises ``UserError``.
    """

    def __init__(self, folder: Path, options: dict[str, Any] | None = None) -> None:
        path = folder / SETTINGS
        self.folder = folder
        self.knobs = postprocess.Knobs.model_validate_json(path.read_text() if path.exists() else "{}")
        self.sampler = Sampler(folder, compute.place(self.knobs))
        self.card = self.sampler.card
        kind = families.load(self.card.family).Sampling
        sampling = validated(kind, {**self.knobs.sampling, **(options or {})}, "options")
        self.sampler.sampling = self.sampler.family.checked(sampling, "options")

    def number(self, label: str | None) -> int | None:
        """Of a class by its name, None for all of them; raises ``UserError``."""
        if label is None:
            return None
        if label not in self.card.classes:
            known = self.card.classes
            mend = suggestion(label, known) if known else "this model knows no classes; omit it"
            raise UserError(f"label: there is no {label!r}; {mend}")
        number = self.card.classes.index(label)
        if not self.card.counts[number]:
            raise UserError(f"label: the model has learned from no image of {label!r}; name another, or omit it")
        return number

    def batches(self, count: int, label: str | None = None, seed: int = 0, first: int = 0) -> Iterator[Batch]:
        """``count`` images from the batch ``first`` on; without a label of all classes, in the data's proportions."""
        asked = self.number(label)
        labels = repeat(asked) if asked is not None else in_turn(self.card.counts, seed)
        labels = islice(labels, first * BATCH, count)
        for number in range(first, -(-count // BATCH)):
            each = np.bincount(list(islice(labels, BATCH)), minlength=len(self.card.counts))
            drawn = int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
            found = made(self.sampler, self.knobs, each, drawn, lambda: self.reference)
            yield Batch(number, found.images, found.labels)

    def images(self, count: int, label: str | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """uint8 N×C×H×W and class numbers N, all at once."""
        found = list(self.batches(count, label, seed))
        return np.concatenate([one.images for one in found]), np.concatenate([one.labels for one in found])

    def measured(self, size: int, drawing: int) -> Made:
        """So many images as the recipe is measured with; every drawing has other ones."""
        each = np.bincount(proportional(self.card.counts, size), minlength=len(self.card.counts))
        return made(self.sampler, self.knobs, each, self.knobs.seed + drawing, lambda: self.reference)

    @cached_property
    def reference(self) -> Reference:
        """What a product brings along whose recipe chooses among its samples."""
        folder = self.folder / REFERENCE
        train, val = (np.load(folder / f"{split}.npy", mmap_mode="r") for split in ("train", "val"))
        return Reference(train, val, folder / "judge", self.sampler.device)


def in_turn(counts: list[int], seed: int) -> Iterator[int]:
    """Class numbers without end: the first of them, however many, are in the proportions of ``shares(counts)``.

    Every class comes at even distances. Where the first of each lies is drawn by the seed: it decides which classes a
    few images are of. Shares of each batch by itself would leave out the same rare classes in all of them.
    """
    known = shares(counts)
    starts = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))).random(len(known))
    line = [(start / share, number) for number, (start, share) in enumerate(zip(starts, known, strict=True)) if share]
    heapq.heapify(line)
    while True:
        place, number = line[0]
        yield number
        heapq.heapreplace(line, (place + 1 / known[number], number))
