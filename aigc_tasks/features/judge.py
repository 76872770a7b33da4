"""A small convolutional classifier, and the features it sees in an image.

Inception's features say little about digits (and must be downloaded); a classifier of the data set itself knows what
matters there. Features are scaled to a mean square of 1 on the training images, so that distances have a common size,
but they are only comparable within one data set and one version of its judge.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_tasks import compute, layout
from aigc_tasks.clean import arrays
from aigc_tasks.errors import UserError
from aigc_tasks.features import Knobs
from aigc_tasks.modalities import image
from aigc_tasks.progress import progress
from aigc_tasks.recipe import dataset

FEATURES = 64
CHUNK = 500  # images looked at together


class Judge(nn.Module):
    """uint8 N×C×H×W to features N×64; ``classify`` goes on to logits N×K."""

    scale: Tensor

    num_features = FEATURES  # torchmetrics asks for it

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        channels, height, side = shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=1 if min(height, side) < 16 else 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.features = nn.Linear(2 * width * 16, FEATURES)
        self.logits = nn.Linear(FEATURES, classes)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        x = self.convolutions(image.encode(images.float()))
        return F.relu(self.features(F.dropout(x, 0.3, self.training))) * self.scale

    def classify(self, images: Tensor) -> Tensor:
        return self.recognise(self(images))

    def recognise(self, features: Tensor) -> Tensor:
        """Logits N×K of features N×64."""
        return cast(Tensor, self.logits(features / self.scale))

    def rescale(self, images: np.ndarray) -> None:
        """Make the features' mean square 1 on these images; what is recognised stays the same."""
        features = look(self, images)[0]
        self.scale = self.scale / features.square().mean().sqrt()


def features(name: str) -> None:
    """The stage: ``data/clean/NAME`` to ``data/features/NAME``."""
    knobs = dataset(name).features
    device = compute.prepare(knobs)
    data = arrays.load(layout.clean(name))
    if not data.classes:
        raise UserError(f"{layout.clean(name)}: has no labels; the judge is a classifier: name a labelled data set")
    torch.manual_seed(compute.seeded(knobs.seed))
    judge = Judge(data.shape, len(data.classes), knobs.width).to(device)
    learn(judge, data.train, knobs, name)
    accuracy = {split: accuracy_on(judge, getattr(data, split)) for split in ("val", "test")}
    with layout.written_whole(layout.features(name)) as folder:
        weights = {key: value.cpu().contiguous() for key, value in judge.state_dict().items()}
        (folder / "judge.safetensors").write_bytes(save(weights))
        facts = {"shape": data.shape, "classes": data.classes, "width": knobs.width, "accuracy": accuracy}
        (folder / "judge.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"features {name}  the judge is right on {accuracy['test']:.2%} of the test images")


def learn(judge: Judge, data: arrays.Split, knobs: Knobs, name: str) -> None:
    device = next(judge.parameters()).device
    images, labels = torch.from_numpy(np.array(data.images)).to(device), torch.from_numpy(data.labels).to(device)
    optimiser = torch.optim.Adam(judge.parameters(), knobs.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, knobs.steps)
    with progress(f"features {name}", knobs.steps) as update:
        for step in range(knobs.steps):
            rows = torch.randint(len(images), (knobs.batch,), device=device)
            loss = F.cross_entropy(judge.classify(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            update(step + 1, "")
    judge.eval()
    judge.rescale(data.images)


def load(folder: Path) -> Judge:
    """The trained judge, ready to look."""
    try:
        facts = json.loads((folder / "judge.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no judge; run `dvc repro features@{folder.name}`") from None
    judge = Judge(tuple(facts["shape"]), len(facts["classes"]), facts["width"])
    judge.load_state_dict(load_file(folder / "judge.safetensors"))
    return judge.eval()


@torch.no_grad()
def look(judge: Judge, images: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Features N×64 and recognised class numbers N of uint8 N×C×H×W."""
    device = next(judge.parameters()).device
    seen = [
        judge(torch.from_numpy(np.array(images[at : at + CHUNK])).to(device)) for at in range(0, len(images), CHUNK)
    ]
    together = torch.cat(seen)
    return together, judge.recognise(together).argmax(1).cpu().numpy()


def accuracy_on(judge: Judge, data: arrays.Split) -> float:
    return float((look(judge, data.images)[1] == data.labels).mean())
