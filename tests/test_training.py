"""The loop: the same seed gives the same bytes, resumed or not; every image is seen once an epoch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import Project, with_every_family
from torch import Tensor, nn

from aigc_tasks import compute, model, tracking
from aigc_tasks.card import Card, proportional
from aigc_tasks.clean.arrays import Clean, Split
from aigc_tasks.errors import UserError
from aigc_tasks.families import Family, Objective
from aigc_tasks.families.diffusion import Diffusion
from aigc_tasks.families.gan import Gan
from aigc_tasks.families.vae import Vae
from aigc_tasks.recipe import recipe
from aigc_tasks.tracking import Curves
from aigc_tasks.train import Affine, Augmentation, Colour, Flip, Knobs, checkpoint, loop
from aigc_tasks.train.augmentation import augmented, transform
from aigc_tasks.train.training import FAILURE, LOOKED_AT, begun, broken_off, card_of, go_on, looks, write_curves

SHAPE = (1, 8, 8)
FAMILIES: dict[str, tuple[Family, str]] = {
    "resnet": (Gan(width=4), "resnet"),
    "mlp": (Gan(width=8, objective="bce"), "mlp"),
    "vae": (Vae(width=4, latent=4), "resnet"),
    "diffusion": (Diffusion(width=4), "unet"),
}
RICH: dict[str, tuple[Family, str]] = {
    "rich gan": (Gan(width=4, attention=True, augment=["colour", "translation", "cutout"]), "resnet"),
    "rich vae": (Vae(width=4, latent=4, free_bits=0.1, beta=0.5), "resnet"),
    "rich diffusion": (Diffusion(width=4, patch=2, hidden_labels=0.5), "unet"),
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

    def saving(self, step: int) -> None: ...


@pytest.fixture
def data() -> Split:
    generator = np.random.default_rng(0)
    return Split(generator.integers(0, 256, (40, *SHAPE), dtype=np.uint8), generator.integers(0, 10, 40))


def train(which: str, data: Split, path: Path, knobs: Knobs = KNOBS, stop_after: int | None = None) -> loop.Training:
    family, architecture = (FAMILIES | RICH)[which]
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


@pytest.mark.parametrize("which", RICH)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_with_everything_that_draws_or_rounds_it_resumes_bit_identically(
    which: str, precision: str, data: Split, tmp_path: Path
) -> None:
    rich = {"accumulate": 2, "augment": CHANGES[3], "clip": 1.0, "warmup": 3, "schedule": "cosine"}
    knobs = KNOBS.model_copy(update={**rich, "steps": 10, "precision": precision})
    undisturbed = train(which, data, tmp_path / "undisturbed", knobs)
    with pytest.raises(KeyboardInterrupt):
        train(which, data, tmp_path / "stopped", knobs, stop_after=7)
    torch.randn(100)
    resumed = train(which, data, tmp_path / "stopped", knobs)
    assert undisturbed.history == resumed.history
    assert (tmp_path / "undisturbed").read_bytes() == (tmp_path / "stopped").read_bytes()


@pytest.mark.parametrize("which", FAMILIES)
def test_a_damaged_checkpoint_is_said_and_training_begins_again(
    which: str, data: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint"
    undisturbed = train(which, data, tmp_path / "whole")
    path.write_bytes((tmp_path / "whole").read_bytes()[:1000])
    assert same(undisturbed, train(which, data, path))
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


def test_the_learning_rate_rises_and_falls_on_a_half_cosine() -> None:
    knobs = Knobs(steps=110, warmup=10, learning_rate=1.0, final_learning_rate=0.2, schedule="cosine")
    assert [loop.learning_rate(knobs, step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    for step in (10, 35, 60, 85, 110):
        share = (1 - math.cos(math.pi * (step - 10) / 100)) / 2
        assert loop.learning_rate(knobs, step) == pytest.approx(1 - 0.8 * share)
    assert loop.learning_rate(knobs, 60) == pytest.approx(0.6)
    straight = knobs.model_copy(update={"schedule": "linear"})
    assert [loop.learning_rate(straight, step) for step in (9, 10, 35, 110)] == pytest.approx([1, 1, 0.8, 0.2])


def test_the_model_is_the_moving_average_of_the_weights(data: Split) -> None:
    """θ̄ₙ = d·θ̄ₙ₋₁ + (1-d)·θₙ, where d is 0 at first and then rises, at step n to (1+n)/(10+n) or what is asked for."""
    family, architecture = FAMILIES["mlp"]
    knobs = KNOBS.model_copy(update={"ema": 0.3})
    training = loop.begin(family, family.networks(architecture, SHAPE, 10), knobs)
    expected: dict[str, torch.Tensor] = {}
    images, labels = torch.randn(8, *SHAPE), torch.zeros(8, dtype=torch.int64)
    for decay in (0, 2 / 11, 3 / 12, 0.3, 0.3, 0.3):
        assert loop.decay(knobs, training.step) == pytest.approx(decay, abs=0.008)
        decay = loop.decay(knobs, training.step)
        loop.step(training, family, knobs, images, labels)
        training.step += 1
        for name, value in training.networks["generator"].state_dict().items():
            expected[name] = decay * expected.get(name, value) + (1 - decay) * value
    for name, value in training.ema.state_dict().items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("power", [2, 8])
def test_the_average_weighs_a_step_as_a_power_of_its_number(power: int) -> None:
    """Karras et al. 2024: what it looks back on is a share of the training, however long that is."""
    knobs = KNOBS.model_copy(update={"ema": 0.9999, "ema_power": power})
    weights = np.ones(1_001)
    for step in range(1_001):
        decay = loop.decay(knobs, step)
        weights[:step] *= decay
        weights[step] = 1 - decay
    assert weights.sum() == pytest.approx(1)
    assert weights[1_000] / weights[500] == pytest.approx(2**power, rel=0.05)
    assert weights[1_000] / weights[250] == pytest.approx(4**power, rel=0.15)


@pytest.mark.parametrize("harm", [float("nan"), 1e12])
def test_divergence_stops_with_the_step_and_keeps_the_last_good_checkpoint(
    harm: float, data: Split, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train("mlp", data, path, stop_after=8)
    family, architecture = FAMILIES["mlp"]
    training = loop.begin(family, family.networks(architecture, SHAPE, 10), KNOBS)
    loop.resume(training, path)
    before = path.read_bytes()
    with torch.no_grad():
        list(training.networks["discriminator"].parameters())[-1].fill_(harm)
    with pytest.raises(UserError, match=r"diverged: discriminator is .* at step 9; lower `learning_rate`") as error:
        loop.run(training, family, KNOBS, data, path, Watcher(), lambda done, note: None)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(f"the last good checkpoint, of step 8, is {path}")
    assert path.read_bytes() == before


class Line(Family):
    """Linear regression of the labels: an objective without chance in it."""

    sampler: ClassVar[str] = "line"
    roles: ClassVar[tuple[str, ...]] = ()
    conditional: bool = True

    def networks(self, architecture: str, shape: tuple[int, int, int], classes: int) -> dict[str, nn.Module]:
        torch.manual_seed(0)
        return {"line": nn.Linear(math.prod(shape), 1)}

    def objectives(self, networks: dict[str, nn.Module], images: Tensor, labels: Tensor) -> Iterator[Objective]:
        loss = (networks["line"](images.flatten(1))[:, 0] - labels).square().mean()
        yield Objective("line", loss, {"error": loss.detach()})

    def noise_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        return shape

    def sample(self, network: nn.Module, noise: Tensor, labels: Tensor, sampling: Any) -> Tensor:
        return noise


WEIGHTS = "not all weights and moments of line are finite"


@pytest.mark.parametrize(
    ("harmed", "harm", "said", "saved"),
    [
        (2, math.nan, "error is nan at step 3;", 0),  # the loss tells of it at the next step
        (6, math.nan, "error is nan at step 7;", 4),
        (8, math.nan, f"{WEIGHTS} at step 8;", 4),  # a checkpoint comes before the next loss
        (8, 1e30, f"{WEIGHTS} at step 8;", 4),  # its square is endless: Adam would stand still for ever
        (12, math.nan, f"{WEIGHTS} at step 12;", 8),  # the last: it would be the model
    ],
)
def test_a_broken_gradient_is_said_at_its_step_and_never_saved(
    harmed: int, harm: float, said: str, saved: int, data: Split, tmp_path: Path
) -> None:
    knobs = KNOBS.model_copy(update={"steps": 12, "log_every": 4, "picture_every": 100})
    training = loop.begin(Line(), Line().networks("", SHAPE, 0), knobs)
    (weights,) = [value for value in training.networks["line"].parameters() if value.dim() == 2]
    weights.register_hook(lambda slope: slope * harm if training.step == harmed - 1 else slope)
    path = tmp_path / "checkpoint"
    with pytest.raises(UserError, match=f"training diverged: {said}") as error:
        loop.run(training, Line(), knobs, data, path, Watcher(), lambda done, note: None)
    assert str(error.value).endswith(f"of step {saved}, is {path}" if saved else "there is no checkpoint yet")
    assert path.exists() == (saved > 0)
    if saved:
        kept = loop.begin(Line(), Line().networks("", SHAPE, 0), knobs)
        loop.resume(kept, path)
        assert kept.step == saved
        loop.check(kept, [], path)


class Moody(Line):
    """Plots something more at every other step."""

    def objectives(self, networks: dict[str, nn.Module], images: Tensor, labels: Tensor) -> Iterator[Objective]:
        (objective,) = super().objectives(networks, images, labels)
        more = {"odd": torch.tensor(3.0)} if next(self.turns) % 2 else {}
        yield objective._replace(curves={**objective.curves, **more})

    turns: ClassVar[Iterator[int]] = iter(range(1000))


@pytest.mark.parametrize("counts", [[100], [90] * 10, [1000, 20, 1], [7] * 40, [0, 30, 0, 9, 0]])
@pytest.mark.parametrize("named", [True, False])
def test_a_look_has_a_row_of_every_class_and_the_shares_of_all(counts: list[int], named: bool) -> None:
    counts = counts if named else [sum(counts)]
    classes = [str(number) for number in range(len(counts))] if named else []
    labels, shown = looks(Card("r", "d", "gan", "resnet", {}, (1, 8, 8), classes, counts, ""))
    assert (labels[:LOOKED_AT] == proportional(counts, LOOKED_AT)).all()
    learned = [number for number, count in enumerate(counts) if count]  # the others cannot be drawn
    assert labels[shown].tolist() == sorted(learned * (10 if named else 100))
    assert len(set(shown)) == len(shown)
    assert len(labels) <= LOOKED_AT + len(shown)


def test_of_many_classes_a_look_has_some_rows_evenly_among_them() -> None:
    classes = [str(number) for number in range(300)]
    labels, shown = looks(Card("r", "d", "gan", "resnet", {}, (1, 8, 8), classes, [7] * 300, ""))
    assert np.unique(labels[shown]).tolist() == list(range(0, 300, 6))
    assert len(shown) == 500
    assert len(labels) <= LOOKED_AT + len(shown)


def test_curves_may_come_and_go(data: Split, tmp_path: Path) -> None:
    """A point is the mean of the steps that have the curve; a gap is no number in the table."""
    knobs = KNOBS.model_copy(update={"steps": 5, "log_every": 2, "checkpoint_every": 2})
    training = loop.begin(Moody(), Moody().networks("", SHAPE, 0), knobs)
    loop.run(training, Moody(), knobs, data, tmp_path / "checkpoint", Watcher(), lambda done, note: None)
    assert [point.get("odd") for point in training.history] == [3.0, 3.0, None]
    write_curves(tmp_path / "curves.csv", training.history[::-1])
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines[0] == "step,error,odd"
    assert [line.split(",")[::2] for line in lines[1:]] == [["5", "nan"], ["4", "3.0"], ["2", "3.0"]]


@pytest.mark.parametrize("stored", [True, False])
def test_a_failure_is_told_to_the_run_where_its_store_is_there(
    stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    client = tracking.open_client()
    run_id = tracking.start_run(client, "digits", "digits-gan", {}, {})
    curves = Curves(client, run_id)
    curves.point(20, {"error": 1.0})
    if not stored:
        client.delete_run(run_id)  # what cannot be told does not hide what was to be told
    broken_off(client, run_id, curves, UserError("training diverged: at step 23\nand more"))
    run = client.get_run(run_id)
    if stored:
        assert (run.info.status, run.data.tags[FAILURE]) == ("FAILED", "UserError: training diverged: at step 23")
    assert run.data.metrics == ({"curves/error": 1.0} if stored else {})


def one_step(**knobs: Any) -> tuple[Tensor, float]:
    """The gradient of the line's weights after one step, and the plotted error."""
    settings = Knobs(steps=10, batch=12, **knobs)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(12, *SHAPE, generator=generator), torch.arange(12)
    training = loop.begin(Line(), Line().networks("", SHAPE, 0), settings)
    curves = loop.step(training, Line(), settings, images, labels)
    return torch.cat([weights.grad.flatten() for weights in training.networks["line"].parameters()]), float(  # type: ignore[union-attr]
        curves["error"]
    )


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_a_batch_taken_in_parts_has_the_same_gradient(parts: int) -> None:
    whole, error = one_step()
    found, same_error = one_step(accumulate=parts)
    torch.testing.assert_close(found, whole)
    assert same_error == pytest.approx(error)


def test_a_batch_is_not_taken_in_unequal_parts() -> None:
    with pytest.raises(ValueError, match=r"32 .*cannot be taken in 3 equal parts"):
        Knobs(accumulate=3)


def test_clipping_limits_the_norm_and_keeps_the_direction() -> None:
    free, _ = one_step()
    assert float(free.norm()) > 1
    clipped, _ = one_step(clip=0.5)
    assert float(clipped.norm()) == pytest.approx(0.5, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm())
    torch.testing.assert_close(one_step(clip=1e6)[0], free)


CHANGES: list[list[Augmentation]] = [
    [Flip(do="flip")],
    [Affine(do="affine", degrees=20, translate=0.2, scale=0.2)],
    [Colour(do="colour", brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)],
    [Flip(do="flip"), Affine(do="affine"), Colour(do="colour")],
]


@pytest.mark.parametrize("steps", CHANGES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 20)])
@pytest.mark.parametrize("count", [1, 5, 32])
def test_augmentation_changes_images_by_the_seed_alone(
    steps: list[Augmentation], shape: tuple[int, int, int], count: int
) -> None:
    images = torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    kept = images.clone()

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return augmented(images, transform(steps))

    found = drawn(1)
    assert (found.shape, found.dtype) == (images.shape, torch.uint8)
    assert torch.equal(found, drawn(1))
    assert any(not torch.equal(drawn(seed), images) for seed in range(20))
    assert torch.equal(images, kept)
    assert augmented(images, transform([])) is images


def test_every_image_is_flipped_by_its_own_coin() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (400, 3, 4, 6), dtype=torch.uint8)
    found = augmented(images, transform([Flip(do="flip")]))
    flipped = torch.tensor([torch.equal(one, other.flip(-1)) for one, other in zip(found, images, strict=True)])
    assert all(torch.equal(one, other) for one, other in zip(found[~flipped], images[~flipped], strict=True))
    assert 0.4 < float(flipped.float().mean()) < 0.6
    assert 150 < int((flipped[1:] != flipped[:-1]).sum()) < 250  # neighbours do not go together


def test_augmented_training_resumes_bit_identically(data: Split, tmp_path: Path) -> None:
    knobs = KNOBS.model_copy(update={"augment": CHANGES[3]})
    undisturbed = train("mlp", data, tmp_path / "undisturbed", knobs)
    with pytest.raises(KeyboardInterrupt):
        train("mlp", data, tmp_path / "stopped", knobs, stop_after=7)
    torch.randn(100)
    assert same(undisturbed, train("mlp", data, tmp_path / "stopped", knobs))
    assert (tmp_path / "undisturbed").read_bytes() == (tmp_path / "stopped").read_bytes()
    assert not same(undisturbed, train("mlp", data, tmp_path / "plain"))


@pytest.mark.parametrize("which", FAMILIES)
def test_bfloat16_trains_and_keeps_the_weights_in_float32(which: str, data: Split, tmp_path: Path) -> None:
    training = train(which, data, tmp_path / "narrow", KNOBS.model_copy(update={"precision": "bfloat16"}))
    wide = train(which, data, tmp_path / "wide")
    assert all(value.isfinite().all() for value in weights(training).values())
    assert {value.dtype for value in weights(training).values()} == {torch.float32}
    assert not same(training, wide)
    for name, value in wide.history[0].items():
        assert training.history[0][name] == pytest.approx(value, rel=0.1, abs=0.1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler; there is no g++ here")
def test_a_compiled_training_is_about_the_same(data: Split, tmp_path: Path) -> None:
    compiled = train("mlp", data, tmp_path / "compiled", KNOBS.model_copy(update={"compile": True}))
    plain = train("mlp", data, tmp_path / "plain")
    for name, value in plain.history[-1].items():
        assert compiled.history[-1][name] == pytest.approx(value, rel=0.01, abs=0.01)
    assert weights(compiled).keys() == weights(plain).keys()


def test_a_model_survives_the_disk(data: Split, tmp_path: Path) -> None:
    training = train("resnet", data, tmp_path / "checkpoint")
    family = FAMILIES["resnet"][0]
    card = Card("r", "d", "gan", "resnet", family.model_dump(), SHAPE, list("0123456789"), [4] * 10, "f")
    model.save_model(tmp_path, card, training.ema)
    labels = np.arange(300) % 10
    loaded = model.Sampler(tmp_path)
    assert loaded.card == card
    images = loaded.sample(labels, seed=5)
    assert images.dtype == np.uint8
    assert (images == model.sample(family, training.ema, SHAPE, labels, seed=5)).all()
    assert (images != loaded.sample(labels, seed=6)).any()


def test_sampling_leaves_the_random_state_alone(data: Split, tmp_path: Path) -> None:
    training = train("resnet", data, tmp_path / "checkpoint")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model.sample(FAMILIES["resnet"][0], training.ema, SHAPE, np.zeros(3, np.int64), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpoints_hold_no_pickle(data: Split, tmp_path: Path) -> None:
    """safetensors: eight bytes of length, then JSON."""
    train("mlp", data, tmp_path / "checkpoint")
    content = (tmp_path / "checkpoint").read_bytes()
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    assert header.lstrip().startswith(b"{")
    assert checkpoint.STATE.encode() in header


@pytest.mark.parametrize(
    ("family", "entry", "said"),
    [
        ("diffusion", {"model": {"patch": 3}}, "model.patch: 3 does not divide images of 8×8 pixels; set it to 1"),
        (
            "gan",
            {"network": "mlp", "model": {"attention": True}},
            "model.attention: the network mlp has no feature maps",
        ),
        *[
            (
                family,
                {"model": {"width": width}},
                "model: networks as large as these do not fit into memory; set a smaller",
            )
            for family in ("diffusion", "gan", "vae")
            for width in (10**13, 4 * 10**19)
        ],
    ],
)
def test_networks_that_do_not_suit_images_or_machine_are_one_line_with_the_recipe(
    family: str, entry: dict[str, Any], said: str, data: Split, here: Project
) -> None:
    with_every_family(here).edit(lambda p: p["recipes"][f"digits-{family}"].update(entry))
    settings = recipe(f"digits-{family}")
    card = card_of(settings, Clean(list("0123456789"), data, data, data), "")
    with pytest.raises(UserError) as error:
        begun(settings, card, torch.device("cpu"), f"params.yaml: recipes.digits-{family}.")
    assert str(error.value).startswith(f"params.yaml: recipes.digits-{family}.{said}")
    assert "\n" not in str(error.value)


def test_a_step_that_does_not_fit_into_memory_is_one_line(
    data: Split, here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe("digits-gan")
    card = card_of(settings, Clean(list("0123456789"), data, data, data), "")
    where = "params.yaml: recipes.digits-gan."
    training = begun(settings, card, torch.device("cpu"), where)
    monkeypatch.setattr(loop, "step", lambda *_: torch.empty(2**60))
    with pytest.raises(UserError, match=r"^params.yaml: recipes.digits-gan.train: a step does not .* smaller `batch`"):
        go_on(training, settings, data, Path("checkpoint"), Watcher(), "train", where)
    monkeypatch.setattr(loop, "step", lambda *_: torch.empty(2, 3) @ torch.empty(2))
    with pytest.raises(RuntimeError, match="size mismatch"):  # a fault of ours stays one
        go_on(training, settings, data, Path("checkpoint"), Watcher(), "train", where)
