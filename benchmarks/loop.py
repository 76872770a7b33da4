"""What the loop costs beyond its steps: EMA, curves to MLflow, checkpoints, system metrics, against bare steps.

``python -m benchmarks.loop [--steps N] [--rounds N]`` trains every digits recipe of the catalogue both ways in turns,
on random images of the digits' shape, in a temporary folder; sample grids are left out, they are sampling. The ratio
is of the medians over the rounds of one run.
"""

from __future__ import annotations

import argparse
import statistics
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
from aigc_tasks.tracking import Curves
from aigc_tasks.train import loop

ROOT = Path(__file__).resolve().parents[1]
SHAPE, CLASSES, COUNT = (1, 8, 8), 10, 1259


class Recorder:
    """What the train stage does at a point and at a checkpoint."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def point(self, step: int, curves: dict[str, float]) -> None:
        self.curves.point(step, curves)

    def picture(self, step: int, network: nn.Module) -> None: ...

    def saving(self, step: int) -> None:
        self.curves.flush()


def begun(settings: recipe.Recipe) -> loop.Training:
    torch.manual_seed(0)
    return loop.begin(settings.family, settings.family.networks(settings.network, SHAPE, CLASSES), settings.train)


def bare(settings: recipe.Recipe, data: Split, steps: int) -> float:
    """Seconds of the same steps with nothing around them."""
    training = begun(settings)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    began = time.perf_counter()
    for _ in range(steps):
        rows = torch.randint(len(images), (settings.train.batch,))
        for objective in settings.family.objectives(training.networks, image.encode(images[rows]), labels[rows]):
            optimiser = training.optimisers[objective.network]
            optimiser.zero_grad()
            objective.loss.backward()
            optimiser.step()
    return time.perf_counter() - began


def whole(settings: recipe.Recipe, data: Split, steps: int) -> float:
    """Seconds of the loop as the train stage runs it."""
    training = begun(settings)
    knobs = settings.train.model_copy(update={"steps": steps})
    client = tracking.open_client()
    run_id = tracking.start_run(client, "benchmark", settings.name, {}, {})
    with tracking.system_metrics(run_id), tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Curves(client, run_id))
        began = time.perf_counter()
        path = Path(folder, "checkpoint.safetensors")
        loop.run(training, settings.family, knobs, data, path, recorder, lambda done, note: None)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    data = Split(rng.integers(0, 256, (COUNT, *SHAPE), dtype=np.uint8), rng.integers(0, CLASSES, COUNT))
    print(f"| {arguments.steps} steps, median of {arguments.rounds} | bare, s | loop, s | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):  # one for all: MLflow keeps its database open
        for name in ("digits-diffusion", "digits-gan", "digits-vae"):
            settings = recipe.recipe(name, ROOT / f"recipes/{name}.yaml")
            compute.prepare(settings.train)
            whole(settings, data, 20)
            rounds = [
                (bare(settings, data, arguments.steps), whole(settings, data, arguments.steps))
                for _ in range(arguments.rounds)
            ]
            alone, watched = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
            print(f"| {name} | {alone:.2f} | {watched:.2f} | {watched / alone:.3f} |", flush=True)


if __name__ == "__main__":
    main()
