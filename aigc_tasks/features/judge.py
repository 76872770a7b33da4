"""What a judge sees in an image: features, and the class if the data set has labels.

Inception's features say little about digits (and must be downloaded); a classifier of the data set itself knows what
matters there, and where there are no labels, a network that has learned what the data set's images are told apart by.
Features are scaled to a mean square of 1 on the training images, so that distances have a common size, but they are
only comparable within one data set and one version of its judge.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from aigc_tasks import compute, layout
from aigc_tasks.clean import arrays
from aigc_tasks.errors import UserError, naming
from aigc_tasks.features import Knobs, learning, trunks

CHUNK = 500  # images looked at together


class Judge(nn.Module):
    """uint8 N×C×H×W to features N×F; ``recognise`` goes on to logits N×K where there are K classes."""

    scale: Tensor

    def __init__(self, trunk: nn.Module, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.logits = nn.Linear(int(trunk.width), classes) if classes else None  # type: ignore[arg-type]
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images) * self.scale

    def recognise(self, features: Tensor) -> Tensor:
        """Logits N×K of features N×F."""
        assert self.logits is not None
        return cast(Tensor, self.logits(features / self.scale))

    def rescale(self, images: np.ndarray) -> None:
        """Make the features' mean square 1 on these images; what is recognised stays the same. Raises ``UserError``."""
        size = look(self, images)[0].square().mean().sqrt()
        if not 0 < float(size) < torch.inf:
            raise UserError(
                "features: the judge sees nothing in the training images, or what is no number; "
                "set a lower `learning_rate` in the data set's `features:`, or `kind: pixels`"
            )
        self.scale = self.scale / size


def features(name: str) -> None:
    """The stage: ``data/clean/NAME`` to ``data/features/NAME``."""
    from aigc_tasks.recipe import dataset  # which a product that brings a judge along has no use for

    knobs = dataset(name).features
    device = compute.prepare(knobs)
    data = arrays.load(layout.clean(name))
    kind = knobs.kind if knobs.kind != "auto" else "classifier" if len(data.classes) > 1 else "selfsupervised"
    if kind == "classifier" and len(data.classes) < 2:
        raise UserError(
            f"params.yaml: datasets.{name}.features.kind: a classifier needs two classes, which {name} has not; "
            "set `kind: selfsupervised`"
        )
    torch.manual_seed(compute.seeded(knobs.seed))
    with (
        naming(f"{layout.PARAMS}: datasets.{name}."),
        compute.within_memory("features: learning does not fit into memory; set a smaller `width` or `batch`"),
    ):
        judge = Judge(trunk(kind, knobs, data.shape), len(data.classes)).to(device)
        learn(judge, kind, data.train, knobs, name)
    figures = {split: accuracy_on(judge, getattr(data, split)) for split in ("val", "test")} if data.classes else {}
    with layout.written_whole(layout.features(name)) as folder:
        weights = {key: value.cpu().contiguous() for key, value in judge.state_dict().items()}
        (folder / "judge.safetensors").write_bytes(save(weights))
        facts = {
            "kind": kind,
            "shape": data.shape,
            "classes": data.classes,
            "width": knobs.width,
            "pretrained": knobs.pretrained,
            "accuracy": figures,
        }
        (folder / "judge.json").write_text(json.dumps(facts, indent=2) + "\n")
    right = f"; it is right on {figures['test']:.2%} of the test images" if figures else ""
    print(f"features {name}  the judge is {kind}{right}")


def trunk(kind: str, knobs: Knobs, shape: tuple[int, int, int]) -> nn.Module:
    """What the judge of this kind sees with, untrained but for a pretrained one."""
    if kind == "pixels":
        return trunks.Pixels(shape)
    if kind == "pretrained":
        return trunks.pretrained(knobs.pretrained, knobs.weights).requires_grad_(False)
    return trunks.Convolutional(shape, knobs.width)


def learn(judge: Judge, kind: str, data: arrays.Split, knobs: Knobs, name: str) -> None:
    """Train what the kind of judge has to learn; then the classifier, where there are classes and it has none yet."""
    if kind == "selfsupervised":
        learning.selfsupervised(judge.trunk, data, knobs, name, judge.scale.device)
        judge.trunk.requires_grad_(False)
    if judge.logits is not None:
        judge.trunk.train(kind == "classifier")
        learning.supervised(judge.trunk, judge.logits, data, knobs, name)
    judge.eval()
    judge.rescale(data.images)


def load(folder: Path) -> Judge:
    """The trained judge, ready to look."""
    try:
        facts = json.loads((folder / "judge.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}: no judge; run `dvc repro features@{folder.name}`") from None
    knobs = Knobs.model_construct(width=facts["width"], pretrained=facts["pretrained"], weights=None)
    judge = Judge(trunk(facts["kind"], knobs, tuple(facts["shape"])), len(facts["classes"]))
    judge.load_state_dict(load_file(folder / "judge.safetensors"))
    return judge.eval()


@torch.no_grad()
def look(judge: Judge, images: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Features N×F and recognised class numbers N (all 0 without classes) of uint8 N×C×H×W."""
    device = judge.scale.device
    seen = [
        judge(torch.from_numpy(np.array(images[at : at + CHUNK])).to(device)) for at in range(0, len(images), CHUNK)
    ]
    together = torch.cat(seen)
    if judge.logits is None:
        return together, np.zeros(len(images), np.int64)
    return together, judge.recognise(together).argmax(1).cpu().numpy()


def accuracy_on(judge: Judge, data: arrays.Split) -> float:
    return float((look(judge, data.images)[1] == data.labels).mean())
