"""A family from outside the package: one class and one line, and it is validated, trained, saved and sampled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from aigc_tasks import compute, families, model, recipe, train
from aigc_tasks.card import Card
from aigc_tasks.clean.arrays import Split
from aigc_tasks.errors import UserError
from aigc_tasks.families import Family, Objective
from aigc_tasks.knobs import Knobs
from aigc_tasks.train import loop

SHAPE = (1, 4, 6)
PARAMS = """
datasets:
  digits:
    acquire: {kind: digits}
    clean: {}
    features: {}
recipes:
  mine:
    dataset: digits
    family: toy
    network: mlp
    model: {spread: 0.05}
    train: {steps: 200, batch: 10, checkpoint_every: 50, seed: 3}
    postprocess: {sampling: {noise: 0.5}}
    evaluate: {}
"""


class Sampling(Knobs):
    noise: float = Field(1.0, ge=0, description="factor on the noise")


class Mean(nn.Module):
    """One image per class."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.zeros(max(classes, 1), *shape))

    def forward(self, labels: Tensor) -> Tensor:
        return self.image[labels]


class Toy(Family):
    """Learns the mean image of every class, and samples it plus noise."""

    sampler: ClassVar[str] = "mean"
    roles: ClassVar[tuple[str, ...]] = ()
    training: ClassVar[dict[str, Any]] = {"learning_rate": 0.05, "ema": 0.9, "batch": 7}
    Sampling: ClassVar[type[Knobs]] = Sampling

    conditional: bool = Field(True, description="use the labels, where the data set has them")
    spread: float = Field(0.1, ge=0, description="of the noise")

    def networks(self, architecture: str, shape: tuple[int, int, int], classes: int) -> dict[str, nn.Module]:
        return {"mean": Mean(shape, classes)}

    def objectives(self, networks: dict[str, nn.Module], images: Tensor, labels: Tensor) -> Iterator[Objective]:
        loss = (networks["mean"](labels) - images).square().mean()
        yield Objective("mean", loss, {"error": loss.detach()})

    def noise_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        return shape

    def sample(self, network: nn.Module, noise: Tensor, labels: Tensor, sampling: Any) -> Tensor:
        return network(labels) + sampling.noise * self.spread * noise


class Forgetful(Toy):
    """Drops half of the pixels while it learns, and normalises batches: other in training than in use."""

    def networks(self, architecture: str, shape: tuple[int, int, int], classes: int) -> dict[str, nn.Module]:
        return {"mean": nn.Sequential(Mean(shape, classes), nn.BatchNorm2d(shape[0]), nn.Dropout(0.5))}


class Nobody:
    def point(self, step: int, curves: dict[str, float]) -> None: ...

    def picture(self, step: int, network: nn.Module) -> None: ...

    def saving(self, step: int) -> None: ...


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(families.FAMILIES, "toy", f"{__name__}:Toy")
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


class Looker(Nobody):
    """Keeps the last samples of training."""

    def __init__(self, family: Family) -> None:
        self.family = family

    def picture(self, step: int, network: nn.Module) -> None:
        self.seen = model.sample(self.family, network, SHAPE, np.arange(20) % 2, seed=0)


def test_its_knobs_are_validated_like_any_others(params: Path) -> None:
    settings = recipe.recipe("mine", params)
    assert settings.family == Toy(spread=0.05)
    assert settings.sampling == Sampling(noise=0.5)
    assert (settings.train.batch, settings.train.ema) == (10, 0.9)  # the recipe's word goes before the family's
    for old, new, message in [
        ("spread: 0.05", "sprad: 1", "recipes.mine.model.sprad: unknown key; did you mean 'spread'?"),
        ("spread: 0.05", "spread: -1", "recipes.mine.model.spread: must be greater than or equal to 0, got -1"),
        ("noise: 0.5", "noize: 0.5", "recipes.mine.postprocess.sampling.noize: unknown key; did you mean 'noise'?"),
        ("network: mlp", "network: mpl", "recipes.mine.network: there is no 'mpl'; did you mean 'mlp'?"),
    ]:
        params.write_text(PARAMS.replace(old, new))
        with pytest.raises(UserError) as error:
            recipe.recipe("mine", params)
        assert str(error.value) == f"{params}: {message}"


def test_it_is_trained_saved_loaded_and_sampled(params: Path, tmp_path: Path) -> None:
    settings = recipe.recipe("mine", params)
    generator = np.random.default_rng(0)
    means, labels = generator.integers(40, 216, (2, *SHAPE)), np.arange(100) % 2
    data = Split((means[labels] + generator.integers(-5, 6, (100, *SHAPE))).astype(np.uint8), labels)

    compute.prepare(settings.train)
    torch.manual_seed(0)
    training = loop.begin(settings.family, settings.family.networks(settings.network, SHAPE, 2), settings.train)
    checkpoint = tmp_path / "checkpoint"
    loop.run(training, settings.family, settings.train, data, checkpoint, Nobody(), lambda done, note: None)
    assert training.history[-1]["error"] < training.history[0]["error"] / 10

    resumed = loop.begin(settings.family, settings.family.networks(settings.network, SHAPE, 2), settings.train)
    loop.resume(resumed, checkpoint)
    assert resumed.step == 200
    assert torch.equal(resumed.ema.image, training.ema.image)  # type: ignore[arg-type]

    knobs = recipe.as_dict(settings.family)
    card = Card("mine", "digits", "toy", settings.network, knobs, SHAPE, ["a", "b"], [50, 50], "f")
    model.save_model(tmp_path, card, training.ema)
    sampler = model.Sampler(tmp_path, sampling=settings.sampling)
    for label in (0, 1):
        drawn = sampler.sample(np.full(400, label), seed=1)
        assert np.abs(drawn.mean(0) - data.images[labels == label].mean(0)).max() < 3
        assert drawn.std(0).mean() == pytest.approx(127.5 * 0.05 * 0.5, rel=0.1)
    assert sampler.reconstruct(data.images[:3], labels[:3]) is None
    assert sampler.bits(data.images[:3], labels[:3], seed=0) is None


def test_training_shows_what_the_model_will_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, "forgetful", f"{__name__}:Forgetful")
    family, knobs = Forgetful(), train.Knobs(steps=20, batch=8)
    generator = np.random.default_rng(0)
    data = Split(generator.integers(0, 256, (40, *SHAPE), dtype=np.uint8), np.arange(40) % 2)
    training, watcher = loop.begin(family, family.networks("mlp", SHAPE, 2), knobs), Looker(family)
    loop.run(training, family, knobs, data, tmp_path / "checkpoint", watcher, lambda done, note: None)
    knobs_of = recipe.as_dict(family)
    model.save_model(
        tmp_path, Card("r", "d", "forgetful", "mlp", knobs_of, SHAPE, ["a", "b"], [20, 20], "f"), training.ema
    )
    assert np.array_equal(model.Sampler(tmp_path).sample(np.arange(20) % 2, seed=0), watcher.seen)
