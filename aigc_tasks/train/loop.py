"""One loop for every family: batches, optimiser steps, EMA, checkpoints.

``run`` is deterministic in (data, family, knobs): a run that was killed and resumed ends with the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aigc_tasks.clean.arrays import Split
from aigc_tasks.compute import seeded
from aigc_tasks.errors import UserError
from aigc_tasks.families import Family
from aigc_tasks.modalities import image
from aigc_tasks.train import Knobs, checkpoint

ORDER, STEP = 1, 2  # what a seed is for: the order of an epoch, the draws of a step


class Watcher(Protocol):
    """Who looks on: MLflow and the progress bar, or nobody in a test."""

    def point(self, step: int, curves: dict[str, float]) -> None: ...
    def picture(self, step: int, network: nn.Module) -> None: ...
    def saved(self, step: int) -> None: ...


@dataclass
class Training:
    """All that changes while training. ``history`` has one row of mean curves per ``log_every`` steps."""

    networks: dict[str, nn.Module]
    ema: AveragedModel
    optimisers: dict[str, Optimizer]
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def begin(family: Family, networks: dict[str, nn.Module], knobs: Knobs) -> Training:
    """Fresh optimisers and a fresh moving average around freshly initialised networks."""
    ema = AveragedModel(networks[family.sampler], multi_avg_fn=get_ema_multi_avg_fn(knobs.ema), use_buffers=True)
    betas = (knobs.beta1, knobs.beta2)
    optimisers: dict[str, Optimizer] = {
        name: Adam(network.parameters(), knobs.learning_rate, betas=betas) for name, network in networks.items()
    }
    return Training(networks, ema, optimisers)


def run(
    training: Training,
    family: Family,
    knobs: Knobs,
    data: Split,
    path: Path,
    watcher: Watcher,
    progress: Callable[[int, str], None],
) -> None:
    """Train in place from ``training.step`` to ``knobs.steps``, writing checkpoints to ``path``."""
    device = next(training.ema.parameters()).device
    images, labels = torch.from_numpy(np.array(data.images)).to(device), torch.from_numpy(data.labels).to(device)
    sums: dict[str, Tensor] = {}
    order = Order(len(images), min(knobs.batch, len(images)), knobs.seed)
    if training.step == 0:
        watcher.picture(0, training.ema.module)
    while training.step < knobs.steps:
        rows = order.batch(training.step).to(device)
        for name, value in step(training, family, knobs, image.encode(images[rows]), labels[rows]).items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
        training.step += 1
        last = training.step == knobs.steps
        if training.step % knobs.log_every == 0 or last:
            curves = means(sums, training, knobs)
            watcher.point(training.step, curves)
            sums = {}
        if training.step % knobs.picture_every == 0 or last:
            watcher.picture(training.step, training.ema.module)
        if training.step % save_every(knobs) == 0 or last:
            save(training, path)
            watcher.saved(training.step)
        progress(training.step, note(training.history))


def step(training: Training, family: Family, knobs: Knobs, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One batch: every objective of the family in order, then the moving average. Returns what to plot."""
    torch.manual_seed(seeded(knobs.seed, STEP, training.step))
    rate = learning_rate(knobs, training.step)
    curves: dict[str, Tensor] = {}
    for objective in family.objectives(training.networks, images, labels):
        optimiser = training.optimisers[objective.network]
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        objective.loss.backward()
        optimiser.step()
        curves |= objective.curves
    training.ema.update_parameters(training.networks[family.sampler])
    return curves


class Order:
    """Batches without replacement: a new order of the whole data set in every epoch, a function of seed and step."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.size, self.seed = count, batch, seed
        self.per_epoch = count // batch
        self.epoch = -1
        self.rows = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """Row numbers of the batch at ``step``."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            generator = torch.Generator().manual_seed(seeded(self.seed, ORDER, epoch))
            self.rows = torch.randperm(self.count, generator=generator)
        return self.rows[place * self.size : (place + 1) * self.size]


def learning_rate(knobs: Knobs, step: int) -> float:
    """Linear from ``learning_rate`` at step 0 to its ``final_learning_rate`` share at the last."""
    return knobs.learning_rate * (1 - (1 - knobs.final_learning_rate) * step / knobs.steps)


def save_every(knobs: Knobs) -> int:
    """Steps between checkpoints: whole points of the curves, so that no half-summed point needs saving."""
    return math.ceil(knobs.checkpoint_every / knobs.log_every) * knobs.log_every


def means(sums: dict[str, Tensor], training: Training, knobs: Knobs) -> dict[str, float]:
    """The next point of the curves, also kept in the history; raises ``UserError`` if a loss is no number."""
    steps = training.step - (int(training.history[-1]["step"]) if training.history else 0)
    curves = {name: float(total) / steps for name, total in sums.items()}
    broken = [name for name, value in curves.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"training diverged: {broken[0]} is {curves[broken[0]]} at step {training.step}; "
            "lower `learning_rate` in params.yaml; the last good checkpoint is kept"
        )
    training.history.append({"step": training.step, **curves})
    return curves


def note(history: list[dict[str, float]]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in list(history[-1].items())[1:]) if history else ""


def save(training: Training, path: Path) -> None:
    state: dict[str, Any] = {"step": training.step, "history": training.history}
    checkpoint.write(path, training.networks, training.ema, training.optimisers, state)


def resume(training: Training, path: Path) -> None:
    """Go on where the checkpoint at ``path`` is, if there is one."""
    state = checkpoint.read(path, training.networks, training.ema, training.optimisers)
    if state is not None:
        training.step, training.history = state["step"], state["history"]
        print(f"resumes after step {training.step}", flush=True)
