"""The loop: the same seed gives the same bytes, resumed or not; every image is seen once an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aigc_tasks import compute, model
from aigc_tasks.card import Card
from aigc_tasks.clean.arrays import Split
from aigc_tasks.errors import UserError
from aigc_tasks.families.gan import Gan
from aigc_tasks.train import Knobs, checkpoint, loop

SHAPE = (1, 8, 8)
FAMILIES = {
    "resnet": (Gan(width=4), "resnet"),
    "mlp": (Gan(width=8, objective="bce"), "mlp"),
}
KNOBS = Knobs(steps=24, batch=8, checkpoint_every=4, log_every=4, picture_every=8, learning_rate=1e-3)


class Watcher:
    """Writes down what it is shown; ``stop_after`` raises in the middle, like a kill."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.points: list[int] = []
        self.stop_after = stop_after

    def point(self, step: int, curves: dict[str, float]) -> None:
        self.points.append(step)
        if self.stop_after is not None and step > self.stop_after:
            raise KeyboardInterrupt

    def picture(self, step: int, network: nn.Module) -> None: ...

    def saved(self, step: int) -> None: ...


@pytest.fixture
def data() -> Split:
    generator = np.random.default_rng(0)
    return Split(generator.integers(0, 256, (40, *SHAPE), dtype=np.uint8), generator.integers(0, 10, 40))


def train(which: str, data: Split, path: Path, knobs: Knobs = KNOBS, stop_after: int | None = None) -> loop.Training:
    family, architecture = FAMILIES[which]
    compute.prepare(knobs)
    torch.manual_seed(compute.seeded(knobs.seed, 0))
    training = loop.begin(family, family.networks(architecture, SHAPE, 10), knobs)
    loop.resume(training, path)
    loop.run(training, family, knobs, data, path, Watcher(stop_after), lambda done, note: None)
    return training


def weights(training: loop.Training) -> dict[str, Any]:
    return {
        **{f"ema.{key}": value for key, value in training.ema.state_dict().items()},
        **{f"{name}.{key}": v for name, net in training.networks.items() for key, v in net.state_dict().items()},
    }


def same(one: loop.Training, other: loop.Training) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("which", FAMILIES)
def test_the_same_seed_gives_the_same_weights_and_another_does_not(which: str, data: Split, tmp_path: Path) -> None:
    one, two = (train(which, data, tmp_path / name) for name in "ab")
    assert same(one, two)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not same(one, train(which, data, tmp_path / "c", KNOBS.model_copy(update={"seed": 1})))


@pytest.mark.parametrize("which", FAMILIES)
@pytest.mark.parametrize("stop_after", [3, 7, 16, 23])
def test_stopped_and_resumed_is_bit_identical_to_undisturbed(
    which: str, stop_after: int, data: Split, tmp_path: Path
) -> None:
    undisturbed = train(which, data, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        train(which, data, tmp_path / "stopped", stop_after=stop_after)
    torch.randn(100)  # other random state, as in another process
    resumed = train(which, data, tmp_path / "stopped")
    assert same(undisturbed, resumed)
    assert undisturbed.history == resumed.history
    assert (tmp_path / "undisturbed").read_bytes() == (tmp_path / "stopped").read_bytes()


def test_a_damaged_checkpoint_is_said_and_training_begins_again(
    data: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint"
    undisturbed = train("mlp", data, tmp_path / "whole")
    path.write_bytes((tmp_path / "whole").read_bytes()[:1000])
    assert same(undisturbed, train("mlp", data, path))
    assert "cannot be read" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    data: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train("mlp", data, path, stop_after=8)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        train("mlp", data, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_every_image_is_seen_once_an_epoch_in_another_order() -> None:
    order = loop.Order(10, 5, seed=3)
    epochs = [torch.cat([order.batch(2 * epoch), order.batch(2 * epoch + 1)]) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(order.batch(3), loop.Order(10, 5, seed=3).batch(3))


def test_the_learning_rate_falls_in_a_line() -> None:
    knobs = Knobs(steps=100, learning_rate=1.0, final_learning_rate=0.5)
    assert [loop.learning_rate(knobs, step) for step in (0, 50, 100)] == [1.0, 0.75, 0.5]


def test_the_model_is_the_moving_average_of_the_weights(data: Split, tmp_path: Path) -> None:
    """With decay d, θ̄ₙ = d·θ̄ₙ₋₁ + (1-d)·θₙ, starting at θ̄₁ = θ₁."""
    family, architecture = FAMILIES["mlp"]
    knobs = KNOBS.model_copy(update={"ema": 0.9})
    training = loop.begin(family, family.networks(architecture, SHAPE, 10), knobs)
    expected: dict[str, torch.Tensor] = {}
    images, labels = torch.randn(8, *SHAPE), torch.zeros(8, dtype=torch.int64)
    for _ in range(5):
        loop.step(training, family, knobs, images, labels)
        training.step += 1
        for name, value in training.networks["generator"].state_dict().items():
            expected[name] = value.clone() if name not in expected else 0.9 * expected[name] + 0.1 * value
    for name, value in training.ema.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_divergence_stops_with_the_step_and_keeps_the_last_good_checkpoint(data: Split, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train("mlp", data, path, stop_after=8)
    family, architecture = FAMILIES["mlp"]
    training = loop.begin(family, family.networks(architecture, SHAPE, 10), KNOBS)
    loop.resume(training, path)
    before = path.read_bytes()
    with torch.no_grad():
        next(training.networks["generator"].parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"diverged: .* at step 12; lower `learning_rate`"):
        loop.run(training, family, KNOBS, data, path, Watcher(), lambda done, note: None)
    assert path.read_bytes() == before


def test_a_model_survives_the_disk(data: Split, tmp_path: Path) -> None:
    training = train("resnet", data, tmp_path / "checkpoint")
    family = FAMILIES["resnet"][0]
    card = Card("r", "d", "gan", "resnet", family.model_dump(), SHAPE, list("0123456789"), [4] * 10, "f")
    model.save_model(tmp_path, card, training.ema.module)
    labels = np.arange(300) % 10
    loaded = model.Sampler(tmp_path)
    assert loaded.card == card
    images = loaded.sample(labels, seed=5)
    assert images.dtype == np.uint8
    assert (images == model.sample(family, training.ema.module, labels, seed=5)).all()
    assert (images != loaded.sample(labels, seed=6)).any()


def test_sampling_leaves_the_random_state_alone(data: Split, tmp_path: Path) -> None:
    training = train("resnet", data, tmp_path / "checkpoint")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model.sample(FAMILIES["resnet"][0], training.ema.module, np.zeros(3, np.int64), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpoints_hold_no_pickle(data: Split, tmp_path: Path) -> None:
    """safetensors: eight bytes of length, then JSON."""
    train("mlp", data, tmp_path / "checkpoint")
    content = (tmp_path / "checkpoint").read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    assert header.lstrip().startswith(b"{")
    assert checkpoint.STATE.encode() in header
