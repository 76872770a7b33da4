"""What the loop costs beyond its steps: data order, seeds, EMA, curves to MLflow, checkpoints, system metrics.

``python -m benchmarks.loop [--steps N]`` trains every digits recipe of the catalogue on random images of the digits'
shape, in a temporary folder, as the train stage does (sample grids are left out, they are sampling). Beside it, in
turns of ``TURN`` steps in the same process, a bare loop takes the same steps, so that what else the machine does falls
on both. Wall time is what a user waits; processor time, of all threads, is the steadier of the two under load.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aigc_tasks import compute, recipe, tracking
from aigc_tasks.clean.arrays import Split
from aigc_tasks.modalities import image
from aigc_tasks.recipe import Recipe
from aigc_tasks.tracking import Curves
from aigc_tasks.train import loop

ROOT = Path(__file__).resolve().parents[1]
SHAPE, CLASSES, COUNT = (1, 8, 8), 10, 1259
TURN = 20  # steps


class Recorder:
    """What the train stage does at a point and at a checkpoint."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def point(self, step: int, curves: dict[str, float]) -> None:
        self.curves.point(step, curves)

    def picture(self, step: int, network: nn.Module) -> None: ...

    def saving(self, step: int) -> None:
        self.curves.flush()


class Bare:
    """The same steps with nothing around them. Called by the loop after every step, it takes its turns and the times.

    ``seconds`` has a row for the bare loop and one for the whole: wall time and processor time.
    """

    def __init__(self, settings: Recipe, data: Split, curves: Curves) -> None:
        self.settings, self.curves = settings, curves
        self.training = begun(settings)
        self.images, self.labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        self.seconds = np.zeros((2, 2))
        self.since = now()

    def __call__(self, done: int, note: str) -> None:
        if done % TURN:
            return
        began = now()
        for _ in range(TURN):
            self.step()
        ended = now()
        self.seconds += [ended - began, began - self.since]
        self.curves.flushed += ended[0] - began[0]  # MLflow's batches come by the clock, which stood still for the loop
        self.since = now()

    def step(self) -> None:
        family, knobs, networks = self.settings.family, self.settings.train, self.training.networks
        rows = torch.randint(len(self.images), (knobs.batch,))
        for objective in family.objectives(networks, image.encode(self.images[rows]), self.labels[rows]):
            optimiser = self.training.optimisers[objective.network]
            optimiser.zero_grad()
            objective.loss.backward()
            if knobs.clip:
                nn.utils.clip_grad_norm_(networks[objective.network].parameters(), knobs.clip)
            optimiser.step()


def now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def begun(settings: Recipe) -> loop.Training:
    torch.manual_seed(0)
    return loop.begin(settings.family, settings.family.networks(settings.network, SHAPE, CLASSES), settings.train)


def measured(settings: Recipe, data: Split, steps: int) -> np.ndarray:
    """Seconds of ``steps`` bare steps, and of as many of the loop as the train stage runs it; see ``Bare``."""
    knobs = settings.train.model_copy(update={"steps": steps})
    client = tracking.open_client()
    run_id = tracking.start_run(client, "benchmark", settings.name, {}, {})
    with tracking.system_metrics(run_id), tempfile.TemporaryDirectory() as folder:
        curves = Curves(client, run_id)
        training, path = begun(settings), Path(folder, "checkpoint.safetensors")
        bare = Bare(settings, data, curves)
        loop.run(training, settings.family, knobs, data, path, Recorder(curves), bare)
    return bare.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps
    rng = np.random.default_rng(0)
    data = Split(rng.integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8), rng.integers(0, CLASSES, COUNT))
    print(f"| {steps} steps | bare, ms | loop, ms | ratio | of processor time |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):  # one for all: MLflow keeps its database open
        for name in ("digits-diffusion", "digits-gan", "digits-vae"):
            settings = recipe.recipe(name, ROOT / f"recipes/{name}.yaml")
            compute.prepare(settings.train)
            measured(settings, data, TURN)
            bare, whole = measured(settings, data, steps)
            wall, processor = whole / bare
            alone, watched = bare[0] / steps * 1000, whole[0] / steps * 1000
            print(f"| {name} | {alone:.2f} | {watched:.2f} | {wall:.3f} | {processor:.3f} |", flush=True)


if __name__ == "__main__":
    main()
