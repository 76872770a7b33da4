"""From a model to finished images: draw, more than is wanted where some are rejected; choose; change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from aigc_tasks.features import judge as judges
from aigc_tasks.model import Sampler
from aigc_tasks.postprocess import Change, Knobs, Reject, selection, steps
from aigc_tasks.progress import progress

CHUNK = 64  # images changed together
REAL = 10_000  # training images, evenly taken, that samples are compared with for their quality


@dataclass(frozen=True)
class Reference:
    """What samples are compared with to choose among them: real images uint8 N×C×H×W, and the judge in a folder."""

    train: np.ndarray
    val: np.ndarray
    judge: Path
    device: torch.device

    def look(self, images: np.ndarray) -> np.ndarray:
        """Features as the judge sees them, N×F."""
        return judges.look(self.seer, images)[0].cpu().numpy()

    @cached_property
    def seer(self) -> judges.Judge:
        return judges.load(self.judge).to(self.device)

    @cached_property
    def known(self) -> np.ndarray:
        """Features of the training images that quality is measured by."""
        return self.look(self.train[:: -(-len(self.train) // REAL)])


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
        rows = chosen(drawn, asked, each, knobs.rejects, reference())
    before = selection.keep(np.zeros(len(asked)), asked, each)
    return Made(changed(drawn[rows], knobs.changes), asked[rows], drawn[before])


def chosen(
    images: np.ndarray,
    labels: np.ndarray,
    each: np.ndarray,
    rejects: list[Reject],
    reference: Reference,
) -> np.ndarray:
    """Row numbers of the samples that no step rejects, exactly ``each`` of every class."""
    rows = np.arange(len(images))
    for number, step in enumerate(rejects):
        if step.by == "quality":
            scores = selection.realism(reference.look(images[rows]), reference.known)
        else:
            scores = selection.originality(images[rows], reference.train, reference.val, reference.device)
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
