"""The quality targets, by judges that no stage has seen: other networks, trained here on the same training images.

``python -m benchmarks.quality RECIPE…`` reads what `dvc repro` or `aigc run` has made in this checkout and prints, per
recipe, the FID ratio by each judge, diversity, the memorised share and the seconds of training.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_tasks import layout, recipe, stage
from aigc_tasks.clean import arrays
from aigc_tasks.evaluate import quality
from aigc_tasks.features import neighbours

FEATURES, EPOCHS, BATCH = 64, 15, 64


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+")
    names = parser.parse_args().recipes
    torch.set_num_threads(1)
    judges: dict[str, list[Plain]] = {}
    print("| recipe | FID ratio by unseen judges | accuracy | recall | coverage | memorised | training, s |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        dataset = recipe.recipe(name).dataset.name
        data = arrays.load(layout.clean(dataset))
        epochs = EPOCHS if len(data.train.images) < 5000 else 3
        if dataset not in judges:
            judges[dataset] = [trained(data, width, epochs, seed) for width, seed in ((32, 101), (16, 102), (48, 103))]
        images = np.load(layout.samples(name) / "samples.npy")
        labels = np.load(layout.samples(name) / "labels.npy")
        real = data.train.images[np.sort(np.random.default_rng(0).permutation(len(data.train.images))[: len(images)])]
        ratios, right = [], []
        for judge in judges[dataset]:
            features, test = seen(judge, images), seen(judge, data.test.images)
            ratios.append(quality.fid(features, test) / quality.fid(seen(judge, real), test))
            right.append(float((judge.logits(features).argmax(1).numpy() == labels).mean()))
        count = min(len(images), len(data.test.images), 2000)
        rows = torch.from_numpy(np.random.default_rng(0).permutation(len(images))[:count])
        found = neighbours.manifold(features[rows], test[:count], 5)
        sets = (torch.from_numpy(np.array(part[:5000])).float().flatten(1) for part in (images, data.test.images))
        drawn, held = sets
        known = torch.from_numpy(np.array(data.train.images)).float().flatten(1)
        share = float(neighbours.memorised(drawn, known, held)[0].float().mean())
        conditional = bool(json.loads((layout.model(name) / "model.json").read_text())["classes"])
        print(
            f"| {name} | {np.mean(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
            f" | {f'{np.mean(right):.3f}' if conditional else ''} | {found.recall.float().mean():.2f}"
            f" | {found.coverage.float().mean():.2f} | {share:.2%} | {stage.seconds(f'train@{name}') or 0:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
