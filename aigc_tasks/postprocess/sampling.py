"""The postprocess stage: model in, images out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aigc_tasks import compute, layout
from aigc_tasks.card import Card, proportional
from aigc_tasks.clean import arrays
from aigc_tasks.errors import naming
from aigc_tasks.modalities import image
from aigc_tasks.model import Sampler, to_look_at, worth_a_row
from aigc_tasks.postprocess import Knobs, saving, steps
from aigc_tasks.postprocess.making import Reference, changed, made
from aigc_tasks.recipe import recipe

MOST = 10_000
COLUMNS = 10  # of the grid; one class a row where there are classes
FRAMES = 16  # of an interpolation


def postprocess(name: str) -> None:
    """The stage: ``data/models/NAME`` to ``data/samples/NAME`` and the grid in ``reports/NAME``."""
    settings = recipe(name)
    knobs = settings.postprocess
    device = compute.prepare(knobs)
    sampler = Sampler(layout.model(name), device, settings.sampling)
    card = sampler.card
    with naming(f"{layout.PARAMS}: recipes.{name}."):  # what does not fit is said before the drawing
        steps.apply(np.zeros((1, *card.shape), np.uint8), knobs.changes)
    dataset = settings.dataset.name
    images, labels, before = made(sampler, knobs, wanted(card, knobs), knobs.seed, lambda: reference(dataset, device))
    with layout.written_whole(layout.samples(name)) as folder:
        np.save(folder / "samples.npy", images)
        np.save(folder / "labels.npy", labels)
        if knobs.steps:  # as drawn, for a comparison; the labels are the same
            np.save(folder / "before.npy", before)
        for kind in [kind for kind in saving.OPTIONS if kind in knobs.save]:
            saving.one_each(folder, kind, images, labels, card.classes)
        if {"interpolation", "gif"} & set(knobs.save):
            save_interpolation(folder, sampler, knobs)
    layout.report(name).mkdir(parents=True, exist_ok=True)
    grid(images, labels).save(layout.report(name) / "grid.png")
    print(f"postprocess {name}  {len(images)} samples in {layout.samples(name)}")


def wanted(card: Card, knobs: Knobs) -> np.ndarray:
    """Images of every class that a recipe is measured with: ``count``, by default as many as it learned from."""
    count = knobs.count or min(sum(card.counts), MOST)
    return np.bincount(proportional(card.counts, count), minlength=len(card.counts))


def reference(dataset: str, device: torch.device) -> Reference:
    data = arrays.load(layout.clean(dataset))
    return Reference(data.train.images, data.val.images, layout.features(dataset), device)


def save_interpolation(folder: Path, sampler: Sampler, knobs: Knobs) -> None:
    """One row a class that was learned from, of many of some, changed as the samples are; as strips, a GIF, or both."""
    frames = sampler.interpolate(worth_a_row(np.flatnonzero(sampler.card.counts)), knobs.seed, FRAMES)
    flat = changed(frames.reshape(-1, *sampler.card.shape), knobs.changes)
    frames = flat.reshape(len(frames), FRAMES, *flat.shape[1:])
    if "interpolation" in knobs.save:
        saving.strips(frames).save(folder / "interpolation.png")
    if "gif" in knobs.save:
        saving.animation(folder / "interpolation.gif", frames)


def grid(images: np.ndarray, labels: np.ndarray) -> Image.Image:
    """Up to ``COLUMNS`` samples of a class in a row, of many classes of some; of a single class ``COLUMNS`` rows."""
    classes = worth_a_row(np.unique(labels)).tolist()
    if len(classes) == 1:
        return image.grid(images[to_look_at(labels, classes[0], COLUMNS**2)], COLUMNS)
    rows = [images[to_look_at(labels, label, COLUMNS)] for label in classes]
    columns = max(map(len, rows))
    gap = np.full((columns, *images.shape[1:]), image.BACKGROUND, np.uint8)  # of a rare class there are fewer
    return image.grid(np.concatenate([part for row in rows for part in (row, gap[len(row) :])]), columns)
