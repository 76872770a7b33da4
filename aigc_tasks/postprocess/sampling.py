"""The postprocess stage: model in, images out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aigc_tasks import compute, layout
from aigc_tasks.modalities import image
from aigc_tasks.model import Sampler
from aigc_tasks.progress import progress
from aigc_tasks.recipe import recipe

MOST = 10_000
COLUMNS = 10  # of the grid; one class a row where there are classes


def postprocess(name: str) -> None:
    """The stage: ``data/models/NAME`` to ``data/samples/NAME`` and the grid in ``reports/NAME``."""
    knobs = recipe(name).postprocess
    device = compute.prepare(knobs)
    sampler = Sampler(layout.model(name), device)
    card = sampler.card
    trained_on = sum(card.counts)
    labels = proportional(card.counts, knobs.count or min(trained_on, MOST))
    images = sampler.sample(labels, knobs.seed)
    with layout.written_whole(layout.samples(name)) as folder:
        np.save(folder / "samples.npy", images)
        np.save(folder / "labels.npy", labels)
        write_pngs(folder / "png", images, labels, card.classes)
    layout.report(name).mkdir(parents=True, exist_ok=True)
    image.grid(images[grid_rows(labels)], COLUMNS).save(layout.report(name) / "grid.png")
    print(f"postprocess {name}  {len(images)} samples in {layout.samples(name)}")


def proportional(counts: list[int], total: int) -> np.ndarray:
    """``total`` class numbers in the proportions of ``counts``: evenly spaced places of the sorted training labels."""
    trained = np.repeat(np.arange(len(counts)), counts)
    places = (np.arange(total) + 0.5) / total * len(trained)
    return trained[places.astype(np.int64)]


def grid_rows(labels: np.ndarray) -> np.ndarray:
    """The first ``COLUMNS`` samples of every class; of a single class ``COLUMNS`` rows of them."""
    each = COLUMNS if len(np.unique(labels)) > 1 else COLUMNS**2
    return np.concatenate([np.flatnonzero(labels == label)[:each] for label in np.unique(labels)])


def write_pngs(folder: Path, images: np.ndarray, labels: np.ndarray, classes: list[str]) -> None:
    """One file a sample, NUMBER_CLASS.png."""
    folder.mkdir()
    with progress("save", len(images)) as update:
        for number, (sample, label) in enumerate(zip(images, labels, strict=True)):
            name = f"{number:05d}_{classes[label]}.png" if classes else f"{number:05d}.png"
            image.picture(sample).save(folder / name)
            update(number + 1, "")
