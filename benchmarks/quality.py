"""The quality targets, by judges that no stage has seen: other networks, trained here on the same training images.

``python -m benchmarks.quality RECIPE…`` reads what `dvc repro` or `aigc run` has made in this checkout and prints, per
recipe, the FID ratio by each judge, diversity, the memorised share and the seconds of training. It ends with 1 if one
of ``TARGETS`` is missed. Seconds mean something only where nothing else was running.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_tasks import layout, recipe, stage
from aigc_tasks.clean import arrays
from aigc_tasks.evaluate import quality
from aigc_tasks.features import neighbours

FEATURES, EPOCHS, BATCH = 64, 15, 64
MOST = 2000  # images of either side, between which neighbours are looked for


class Target(NamedTuple):
    """What a recipe must reach: at most the first three, at least the last."""

    seconds: float
    ratio: float = math.inf
    memorised: float = 1.0
    accuracy: float = 0.0


TARGETS = {
    "digits-diffusion": Target(90, ratio=0.8, memorised=0.01),
    "digits-gan": Target(90, ratio=1.5, accuracy=0.97),
    "digits-vae": Target(60, ratio=3.0),
    "mnist-diffusion": Target(900),
    "mnist-gan": Target(900),
    "mnist-vae": Target(900),
}


class Plain(nn.Module):
    """Two convolutions with max-pooling, no dropout, and 64 features: the first thing anybody would write."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        inner = 2 * width * (shape[1] // 4) * (shape[2] // 4)
        self.trunk = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(inner, FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.logits = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images.float() / 127.5 - 1)


def trained(data: arrays.Clean, width: int, epochs: int, seed: int) -> Plain:
    torch.manual_seed(seed)
    judge = Plain(data.shape, len(data.classes), width)
    images, labels = torch.from_numpy(np.array(data.train.images)), torch.from_numpy(data.train.labels)
    optimiser = torch.optim.Adam(judge.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(judge.logits(judge(images[rows])), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return judge.eval()


@torch.no_grad()
def seen(judge: Plain, images: np.ndarray) -> Tensor:
    return torch.cat([judge(torch.from_numpy(np.array(images[at : at + 500]))) for at in range(0, len(images), 500)])


class Found(NamedTuple):
    """What was measured of one recipe. ``accuracy`` is None where the model cannot be asked for a class."""

    ratios: list[float]
    accuracy: float | None
    classes: int
    precision: float
    recall: float
    coverage: float
    memorised: float
    seconds: float

    def missed(self, target: Target) -> list[str]:
        return [
            name
            for name, is_met in (
                ("seconds", self.seconds <= target.seconds),
                ("ratio", float(np.mean(self.ratios)) <= target.ratio),
                ("memorised", self.memorised <= target.memorised),
                ("accuracy", (self.accuracy or 0.0) >= target.accuracy),
            )
            if not is_met
        ]


def some(images: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the images, by chance, in their order."""
    return images[np.sort(np.random.default_rng(0).permutation(len(images))[:count])]


def measured(name: str, data: arrays.Clean, judges: list[Plain]) -> Found:
    """The recipe's samples against the test images, by every judge; diversity by the first one."""
    images = np.load(layout.samples(name) / "samples.npy")
    labels = np.load(layout.samples(name) / "labels.npy")
    real = some(data.train.images, len(images))
    ratios, classes = [], []
    for judge in judges:
        features, test = seen(judge, images), seen(judge, data.test.images)
        ratios.append(quality.fid(features, test) / quality.fid(seen(judge, real), test))
        classes.append(judge.logits(features).argmax(1).numpy())
    count = min(len(images), len(data.test.images), MOST)
    drawn, held = (seen(judges[0], some(part, count)) for part in (images, data.test.images))
    found = neighbours.manifold(drawn, held, 5)
    parts = (some(images, 5000), data.train.images, some(data.test.images, 5000))
    drawn, known, held = (torch.from_numpy(np.array(part)).float().flatten(1) for part in parts)
    conditional = bool(json.loads((layout.model(name) / "model.json").read_text())["classes"])
    return Found(
        ratios=ratios,
        accuracy=float(np.mean([own == labels for own in classes])) if conditional else None,
        classes=len(np.unique(classes[0])),
        precision=float(found.precision.float().mean()),
        recall=float(found.recall.float().mean()),
        coverage=float(found.coverage.float().mean()),
        memorised=float(neighbours.memorised(drawn, known, held)[0].float().mean()),
        seconds=stage.seconds(f"train@{name}") or 0.0,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+")
    names = parser.parse_args().recipes
    torch.set_num_threads(1)
    judges: dict[str, list[Plain]] = {}
    missed: list[str] = []
    print(
        "| recipe | FID ratio by unseen judges | accuracy | classes"
        " | precision, recall | coverage | memorised | training |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        dataset = recipe.recipe(name).dataset.name
        data = arrays.load(layout.clean(dataset))
        epochs = EPOCHS if len(data.train.images) < 5000 else 3
        if dataset not in judges:
            judges[dataset] = [trained(data, width, epochs, seed) for width, seed in ((32, 101), (16, 102), (48, 103))]
        found = measured(name, data, judges[dataset])
        print(
            f"| {name} | {np.mean(found.ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in found.ratios)})"
            f" | {'' if found.accuracy is None else f'{found.accuracy:.1%}'} | {found.classes}"
            f" | {found.precision:.2f}, {found.recall:.2f} | {found.coverage:.2f} | {found.memorised:.1%}"
            f" | {found.seconds:.0f} s |",
            flush=True,
        )
        missed += [f"{name}: {figure}" for figure in found.missed(TARGETS.get(name, Target(math.inf)))]
    print(f"missed: {', '.join(missed)}" if missed else "every target is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
