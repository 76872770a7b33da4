"""The postprocess stage: model in, images out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from aigc_tasks import compute, layout
from aigc_tasks.card import proportional
from aigc_tasks.clean import arrays
from aigc_tasks.features import judge as judges
from aigc_tasks.modalities import image
from aigc_tasks.model import Sampler
from aigc_tasks.postprocess import Change, Knobs, Reject, saving, selection, steps
from aigc_tasks.progress import progress
from aigc_tasks.recipe import recipe

MOST = 10_000
COLUMNS = 10  # of the grid; one class a row where there are classes
FRAMES = 16  # of an interpolation
CHUNK = 64  # images changed together
REAL = 10_000  # training images, evenly taken, that samples are compared with for their quality


def postprocess(name: str) -> None:
    """The stage: ``data/models/NAME`` to ``data/samples/NAME`` and the grid in ``reports/NAME``."""
    settings = recipe(name)
    knobs = settings.postprocess
    device = compute.prepare(knobs)
    sampler = Sampler(layout.model(name), device, settings.sampling)
    card = sampler.card
    steps.apply(np.zeros((1, *card.shape), np.uint8), knobs.changes)  # what does not fit is said before the drawing
    wanted = np.bincount(
        proportional(card.counts, knobs.count or min(sum(card.counts), MOST)), minlength=len(card.counts)
    )
    asked = np.repeat(np.arange(len(wanted)), selection.drawn(wanted, knobs.rejects))
    drawn = sampler.sample(asked, knobs.seed)
    rows = chosen(drawn, asked, wanted, knobs.rejects, settings.dataset.name, device)
    images, labels = changed(drawn[rows], knobs.changes), asked[rows]
    with layout.written_whole(layout.samples(name)) as folder:
        np.save(folder / "samples.npy", images)
        np.save(folder / "labels.npy", labels)
        if knobs.steps:  # as drawn, for a comparison; the labels are the same
            np.save(folder / "before.npy", drawn[selection.keep(np.zeros(len(asked)), asked, wanted)])
        for kind in [kind for kind in saving.OPTIONS if kind in knobs.save]:
            saving.one_each(folder, kind, images, labels, card.classes)
        if {"interpolation", "gif"} & set(knobs.save):
            save_interpolation(folder, sampler, knobs)
    layout.report(name).mkdir(parents=True, exist_ok=True)
    image.grid(images[grid_rows(labels)], COLUMNS).save(layout.report(name) / "grid.png")
    print(f"postprocess {name}  {len(images)} samples in {layout.samples(name)}")


def chosen(
    images: np.ndarray,
    labels: np.ndarray,
    wanted: np.ndarray,
    rejects: list[Reject],
    dataset: str,
    device: torch.device,
) -> np.ndarray:
    """Row numbers of the samples that no step rejects, exactly ``wanted`` of every class."""
    rows = np.arange(len(images))
    if not rejects:
        return rows
    data = arrays.load(layout.clean(dataset))
    for number, step in enumerate(rejects):
        if step.by == "quality":
            judge = judges.load(layout.features(dataset)).to(device)
            count = len(data.train.images)
            real = data.train.images[np.arange(0, count, -(-count // REAL))]
            seen, known = (judges.look(judge, pictures)[0].cpu().numpy() for pictures in (images[rows], real))
            scores = selection.realism(seen, known)
        else:
            scores = selection.originality(images[rows], data.train.images, data.val.images, device)
        best = selection.keep(scores, labels[rows], selection.drawn(wanted, rejects[number + 1 :]))
        if step.by == "copies":
            copies, left = np.isfinite(scores).sum(), np.isfinite(scores[best]).sum()
            advice = "; a larger `share` would drop them" if left else ""
            print(f"reject by copies: {copies} of {len(rows)} samples are copies, {left} are left{advice}")
        rows = rows[best]
    return rows


def save_interpolation(folder: Path, sampler: Sampler, knobs: Knobs) -> None:
    """One row a class, changed as the samples are; as strips, as an animation, or both."""
    classes, shape = len(sampler.card.counts), sampler.card.shape
    frames = sampler.interpolate(np.arange(classes), knobs.seed, FRAMES)
    flat = changed(frames.reshape(-1, *shape), knobs.changes)
    frames = flat.reshape(classes, FRAMES, *flat.shape[1:])
    if "interpolation" in knobs.save:
        saving.strips(frames).save(folder / "interpolation.png")
    if "gif" in knobs.save:
        saving.animation(folder / "interpolation.gif", frames)


def changed(images: np.ndarray, changes: list[Change]) -> np.ndarray:
    """All images through the steps that change pixels."""
    if not changes:
        return images
    done = []
    with progress("change", len(images)) as update:
        for start in range(0, len(images), CHUNK):
            done.append(steps.apply(images[start : start + CHUNK], changes))
            update(start + len(done[-1]), "")
    return np.concatenate(done)


def grid_rows(labels: np.ndarray) -> np.ndarray:
    """The first ``COLUMNS`` samples of every class; of a single class ``COLUMNS`` rows of them."""
    each = COLUMNS if len(np.unique(labels)) > 1 else COLUMNS**2
    return np.concatenate([np.flatnonzero(labels == label)[:each] for label in np.unique(labels)])
