"""From a model to finished images: draw, more than is wanted where some are rejected; choose; change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from aigc_tasks.model import Sampler
from aigc_tasks.postprocess import Change, Knobs, Reject, selection, steps
from aigc_tasks.progress import progress

CHUNK = 64  # images changed together
REAL = 10_000  # training images, evenly taken, that samples are compared with for their quality


class Reference(NamedTuple):
    """What samples are compared with to choose among them."""

    train: np.ndarray  # uint8 N×C×H×W
    val: np.ndarray
    judge: Path


class Made(NamedTuple):
    """Finished images and their class numbers; and, of the same classes, images as they were drawn."""

    images: np.ndarray
    labels: np.ndarray
    before: np.ndarray


def made(sampler: Sampler, knobs: Knobs, each: np.ndarray, seed: int, reference: Callable[[], Reference]) -> Made:
    """``each`` says how many images of every class; they come in the order of the classes."""
    asked = np.repeat(np.arange(len(each)), selection.drawn(each, knobs.rejects))
    drawn = sampler.sample(asked, seed)
    rows = np.arange(len(drawn))
    if knobs.rejects:
        rows = chosen(drawn, asked, each, knobs.rejects, reference(), sampler.device)
    before = selection.keep(np.zeros(len(asked)), asked, each)
    return Made(changed(drawn[rows], knobs.changes), asked[rows], drawn[before])


def chosen(
    images: np.ndarray,
    labels: np.ndarray,
    each: np.ndarray,
    rejects: list[Reject],
    reference: Reference,
    device: torch.device,
) -> np.ndarray:
    """Row numbers of the samples that no step rejects, exactly ``each`` of every class."""
    from aigc_tasks.features import judge as judges

    rows = np.arange(len(images))
    for number, step in enumerate(rejects):
        if step.by == "quality":
            judge = judges.load(reference.judge).to(device)
            real = reference.train[:: -(-len(reference.train) // REAL)]
            seen, known = (judges.look(judge, pictures)[0].cpu().numpy() for pictures in (images[rows], real))
            scores = selection.realism(seen, known)
        else:
            scores = selection.originality(images[rows], reference.train, reference.val, device)
        best = selection.keep(scores, labels[rows], selection.drawn(each, rejects[number + 1 :]))
        if step.by == "copies":
            copies, left = np.isfinite(scores).sum(), np.isfinite(scores[best]).sum()
            advice = "; a larger `share` would drop them" if left else ""
            print(f"reject by copies: {copies} of {len(rows)} samples are copies, {left} are left{advice}")
        rows = rows[best]
    return rows


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
