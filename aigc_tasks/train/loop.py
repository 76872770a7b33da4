"""One loop for every family: batches, optimiser steps, EMA, checkpoints.

``run`` is deterministic in (data, family, knobs): a run that was killed and resumed ends with the same bytes.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from aigc_tasks import compute
from aigc_tasks.clean.arrays import Split
from aigc_tasks.errors import UserError
from aigc_tasks.families import Family, Objective
from aigc_tasks.modalities import image
from aigc_tasks.train import Knobs, checkpoint
from aigc_tasks.train.augmentation import augmented, transform

ORDER, STEP = 1, 2  # what a seed is for: the order of an epoch, the draws of a step
BEYOND = 1e8  # a loss this large will not come back
SHARE = 0.5  # of a GPU's free memory that the data set may take
AHEAD = 100  # seeds made at a time


class Watcher(Protocol):
    """Who looks on: MLflow and the progress bar, or nobody in a test."""

    def point(self, step: int, curves: dict[str, float]) -> None: ...
    def picture(self, step: int, network: nn.Module) -> None: ...
    def saving(self, step: int) -> None: ...


@dataclass
class Training:
    """All that changes while training. ``history`` has one row of mean curves per ``log_every`` steps.

    ``saved`` is the step of the last checkpoint, 0 for none.
    ``averages`` are the parameters of ``ema``: to walk its modules at every step takes longer than to average.
    """

    networks: dict[str, nn.Module]
    ema: nn.Module
    averages: list[Tensor]
    optimisers: dict[str, Optimizer]
    step: int = 0
    saved: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def begin(family: Family, networks: dict[str, nn.Module], knobs: Knobs) -> Training:
    """Fresh optimisers and a fresh moving average around freshly initialised networks.

    Each network has its own Adam (Kingma & Ba 2015, arXiv:1412.6980). The average is only ever sampled, never trained.
    """
    ema = copy.deepcopy(networks[family.sampler]).requires_grad_(False).eval()
    betas = (knobs.beta1, knobs.beta2)
    optimisers: dict[str, Optimizer] = {
        name: Adam(network.parameters(), knobs.learning_rate, betas, fused=True) for name, network in networks.items()
    }
    if knobs.compile:
        torch.use_deterministic_algorithms(True, warn_only=True)  # the compiler is told here alone
        # What samples: a discriminator's gradient penalty goes through it twice, which cannot be compiled.
        sampler = networks[family.sampler]
        for part in sampler.children() if isinstance(sampler, nn.ModuleDict) else [sampler]:
            part.compile()
    return Training(networks, ema, [*ema.parameters()], optimisers)


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
    images = resident(np.array(data.images), device)
    labels = torch.from_numpy(data.labels).to(images.device)
    change = transform(knobs.augment)
    window: list[dict[str, Tensor]] = []  # the steps since the last point; on the device, for none is to wait for it
    said = note(training.history)
    seeds = step_seeds(knobs.seed, training.step)
    order = Order(len(images), min(knobs.batch, len(images)), knobs.seed)
    if training.step == 0:
        watcher.picture(0, training.ema)
    while training.step < knobs.steps:
        rows = order.batch(training.step).to(images.device, non_blocking=True)
        compute.reseed(device, next(seeds))
        batch = image.encode(augmented(images[rows], change).to(device, non_blocking=True))
        window.append(step(training, family, knobs, batch, labels[rows].to(device)))
        training.step += 1
        last = training.step == knobs.steps
        pictured = training.step % knobs.picture_every == 0 or last
        saved = training.step % save_every(knobs) == 0 or last
        if training.step % knobs.log_every == 0 or last:
            watcher.point(training.step, means(window, training, path))
            said = note(training.history)
            window = []
        if pictured or saved:
            take_buffers(training.ema, training.networks[family.sampler])
            check(training, window, path)
        if pictured:
            watcher.picture(training.step, training.ema)
        if saved:
            watcher.saving(training.step)  # first: what a checkpoint is past is not shown again
            save(training, path)
        progress(training.step, said)


def resident(images: np.ndarray, device: torch.device) -> Tensor:
    """The data set on the device if it leaves room for the work there, else where it is."""
    pixels = torch.from_numpy(images)
    if device.type == "cuda" and pixels.nbytes > SHARE * torch.cuda.mem_get_info(device)[0]:
        return pixels  # pinned it would take as long: a batch gathered from it is not
    return pixels.to(device)


def step(training: Training, family: Family, knobs: Knobs, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One batch: every objective of the family in order, then the moving average. Returns what to plot."""
    rate = learning_rate(knobs, training.step)
    chunks = list(zip(images.chunk(knobs.accumulate), labels.chunk(knobs.accumulate), strict=True))
    sizes = [len(chunk) for chunk, _ in chunks]
    parts = [family.objectives(training.networks, *chunk) for chunk in chunks]
    curves: dict[str, Tensor] = {}
    narrow = torch.autocast(images.device.type, torch.bfloat16) if knobs.precision == "bfloat16" else nullcontext()
    while True:
        for number, part in enumerate(parts):
            with narrow:
                objective = next(part, None)
            if objective is None:
                break
            optimiser = training.optimisers[objective.network]
            group = optimiser.param_groups[0]
            if number == 0:
                for weights in group["params"]:
                    weights.grad = None  # as zero_grad does, in a third of its time
            if len(parts) > 1:
                objective = scaled(objective, sizes[number] / len(images))
            objective.loss.backward()
            add(curves, objective.curves)
        if objective is None:
            break
        if knobs.clip:
            nn.utils.clip_grad_norm_(group["params"], knobs.clip)
        group["lr"] = rate
        optimiser.step()
    sampler = training.optimisers[family.sampler].param_groups[0]["params"]
    with torch.no_grad():
        torch._foreach_lerp_(training.averages, sampler, 1 - decay(knobs, training.step))
    return curves


def scaled(objective: Objective, share: float) -> Objective:
    """The objective of a part of a batch, as its share of the whole batch's."""
    curves = {name: value * share for name, value in objective.curves.items()}
    return Objective(objective.network, objective.loss * share, curves)


def add(sums: dict[str, Tensor], curves: dict[str, Tensor]) -> None:
    for name, value in curves.items():
        sums[name] = sums.get(name, 0) + value


@torch.no_grad()
def take_buffers(ema: nn.Module, network: nn.Module) -> None:
    """Of buffers the average holds the last. It is enough before it is looked at."""
    for kept, now in zip(ema.buffers(), network.buffers(), strict=True):
        kept.copy_(now)


def decay(knobs: Knobs, step: int) -> float:
    """Of the moving average (Polyak & Juditsky 1992): less at first, so that it soon forgets the initial weights.

    At first step n weighs as n to the power γ in it, ``ema_power`` (Karras et al. 2024, arXiv:2312.02696).
    """
    return min(knobs.ema, (1 + step) / (2 + knobs.ema_power + step)) if step else 0.0


def step_seeds(seed: int, step: int) -> Iterator[int]:
    """What each step from ``step`` on is seeded with. Made ``AHEAD``: between two steps, one takes 20 times as long."""
    for start in itertools.count(step, AHEAD):
        yield from [compute.seeded(seed, STEP, number) for number in range(start, start + AHEAD)]


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
            generator = torch.Generator().manual_seed(compute.seeded(self.seed, ORDER, epoch))
            self.rows = torch.randperm(self.count, generator=generator)
        return self.rows[place * self.size : (place + 1) * self.size]


def learning_rate(knobs: Knobs, step: int) -> float:
    """Up in a line for ``warmup`` steps, then down to the ``final_learning_rate`` share at the last."""
    if step < knobs.warmup:
        return knobs.learning_rate * (step + 1) / knobs.warmup
    share = (step - knobs.warmup) / max(1, knobs.steps - knobs.warmup)
    if knobs.schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return knobs.learning_rate * (1 - (1 - knobs.final_learning_rate) * share)


def save_every(knobs: Knobs) -> int:
    """Steps between checkpoints: whole points of the curves, so that no half-summed point needs saving."""
    return math.ceil(knobs.checkpoint_every / knobs.log_every) * knobs.log_every


def means(window: list[dict[str, Tensor]], training: Training, path: Path) -> dict[str, float]:
    """The next point of the curves, also kept in the history; raises ``UserError`` if one is no number or endless.

    A curve that not every step has is the mean of those that have it.
    """
    curves: dict[str, float] = {}
    for name in dict.fromkeys(name for row in window for name in row):
        values = [row[name] for row in window if name in row]
        curves[name] = float(sum(values[1:], values[0])) / len(values)
        if not abs(curves[name]) < BEYOND:
            raise diverged(f"{name} is {curves[name]}", window, training, path)
    training.history.append({"step": training.step, **curves})
    return curves


def check(training: Training, window: list[dict[str, Tensor]], path: Path) -> None:
    """Raises ``UserError`` if what a checkpoint holds is not all finite: a loss may be where its gradient is not."""
    held: dict[str, list[Tensor]] = {}
    for name, network in training.networks.items():
        slots = [slot for state in training.optimisers[name].state.values() for slot in state.values()]
        held[name] = [*network.parameters(), *slots]
    held["the moving average"] = training.averages
    finite = [torch.stack([tensor.isfinite().all() for tensor in tensors]).all() for tensors in held.values()]
    for what, sound in zip(held, torch.stack(finite).tolist(), strict=True):  # waits for the device once
        if not sound:
            raise diverged(f"not all weights and moments of {what} are finite", window, training, path)


def diverged(what: str, window: list[dict[str, Tensor]], training: Training, path: Path) -> UserError:
    """``what`` was found now; the first step of the window whose curves say so goes before it."""
    step = training.step
    for number, row in enumerate(window, training.step - len(window) + 1):
        broken = [f"{name} is {float(value)}" for name, value in row.items() if not abs(float(value)) < BEYOND]
        if broken:
            what, step = broken[0], number
            break
    kept = f"the last good checkpoint, of step {training.saved}, is {path}"
    return UserError(
        f"training diverged: {what} at step {step}; lower `learning_rate` or set `clip: 1.0` in params.yaml; "
        f"{kept if training.saved else 'there is no checkpoint yet'}"
    )


def note(history: list[dict[str, float]]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in list(history[-1].items())[1:]) if history else ""


def save(training: Training, path: Path) -> None:
    state: dict[str, Any] = {"step": training.step, "history": training.history}
    checkpoint.write(path, training.networks, training.ema, training.optimisers, state)
    training.saved = training.step


def resume(training: Training, path: Path) -> None:
    """Go on where the checkpoint at ``path`` is, if there is one."""
    state = checkpoint.read(path, training.networks, training.ema, training.optimisers)
    if state is not None:
        training.step = training.saved = state["step"]
        training.history = state["history"]
        print(f"resumes after step {training.step}", flush=True)
