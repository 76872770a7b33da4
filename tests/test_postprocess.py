"""Post-processing: each step against known values, what is rejected and how many are left, and the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Project
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from aigc_tasks import layout, recipe
from aigc_tasks.acquire.__main__ import acquire
from aigc_tasks.clean import arrays
from aigc_tasks.clean.cleaning import clean
from aigc_tasks.errors import UserError
from aigc_tasks.features import neighbours
from aigc_tasks.features.judge import features
from aigc_tasks.knobs import validated
from aigc_tasks.model import save_model
from aigc_tasks.postprocess import Knobs, Reject, saving, selection, steps
from aigc_tasks.postprocess.sampling import grid, postprocess
from aigc_tasks.train.training import card_of

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 64, 64), (3, 64, 64)]
EVERY_CHANGE = [
    {"do": "denoise"},
    {"do": "crop", "height": 6, "width": 4},
    {"do": "resize", "side": 12},
    {"do": "enhance", "contrast": 1.5, "sharpness": 2.0},
    {"do": "upscale", "factor": 3},
]
WRONG = [
    ({"steps": [{"do": "crop", "height": 3, "width": 3}, {"do": "denoise", "strength": 3.0}]},
     "steps.1.strength: must be less than or equal to 1, got 3.0"),
    ({"steps": [{"do": "denoise", "strenth": 1}]}, "steps.0.strenth: unknown key; did you mean 'strength'?"),
    ({"steps": [{"do": "denoise", "zzz": 1}]}, "steps.0.zzz: unknown key; known are: do, strength"),
    ({"steps": [{"do": "denoize"}]}, "steps.0.do: there is no 'denoize'; did you mean 'denoise'?"),
    ({"steps": [{"do": "x"}]},
     "steps.0.do: there is no 'x'; known are: crop, denoise, enhance, reject, resize, upscale"),
    ({"steps": [{"strength": 1.0}]},
     "steps.0.do: missing; known are: crop, denoise, enhance, reject, resize, upscale"),
    ({"steps": [{"do": "crop", "height": 3}]}, "steps.0.width: missing; add it"),
    ({"steps": [{"do": "reject", "by": "luck"}]}, "steps.0.by: must be 'quality' or 'copies', got 'luck'"),
    ({"steps": ["denoise"]}, "steps.0: expected keys and values, got 'denoise'"),
    ({"steps": {"do": "denoise"}}, "steps: expected a list, got {'do': 'denoise'}"),
    ({"steps": [{"do": "denoise"}, {"do": "reject", "by": "quality"}]},
     "steps: `reject` compares samples as the model drew them; move it before the other steps"),
    ({"save": ["png", "jpg"]}, "save.1: must be 'png', 'webp', 'interpolation' or 'gif', got 'jpg'"),
    ({"sampling": [1]}, "sampling: expected keys and values, got [1]"),
    ({"stepz": []}, "stepz: unknown key; did you mean 'steps'?"),
]  # fmt: skip


def picture_of(shape: tuple[int, int, int]) -> np.ndarray:
    """A bright disc on a dark ground, uint8 1×C×H×W; the channels differ."""
    channels, height, width = shape
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height / 2 + 0.5) ** 2 + (columns - width / 2 + 0.5) ** 2 < (height / 3) ** 2
    return np.stack([np.where(disc, 200 - 30 * c, 40 + 20 * c) for c in range(channels)])[None].astype(np.uint8)


def noisy(images: np.ndarray, spread: float, seed: int = 0) -> np.ndarray:
    pixels = images + np.random.default_rng(seed).normal(0, spread, images.shape)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(((found.astype(float) - wanted) ** 2).mean() ** 0.5)


# --- what is declared -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "message"), WRONG)
def test_a_wrong_step_is_one_clear_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validated(Knobs, section, "params.yaml: recipes.x.postprocess")
    assert str(error.value) == f"params.yaml: recipes.x.postprocess.{message}"


def test_steps_keep_their_order_and_default_to_none() -> None:
    assert validated(Knobs, {}, "x").steps == []
    assert validated(Knobs, {}, "x").save == ["png"]
    knobs = validated(Knobs, {"steps": [{"do": "reject", "by": "copies"}, *EVERY_CHANGE]}, "x")
    assert [step.do for step in knobs.steps] == ["reject", "denoise", "crop", "resize", "enhance", "upscale"]
    assert len(knobs.rejects) == 1
    assert len(knobs.changes) == 5


# --- the steps that change pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_all_steps_in_turn_give_the_same_images_every_time(shape: tuple[int, int, int]) -> None:
    images, changes = noisy(picture_of(shape).repeat(3, 0), 20), validated(Knobs, {"steps": EVERY_CHANGE}, "x").changes
    first, second = steps.apply(images, changes), steps.apply(images, changes)
    assert first.dtype == np.uint8
    assert first.shape == (3, shape[0], 54, 36)
    assert (first == second).all()
    assert (steps.apply(images[1:2], changes) == first[1:2]).all(), "an image depends on its neighbours"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_that_is_asked_for_nothing_changes_no_bit(shape: tuple[int, int, int]) -> None:
    images = noisy(picture_of(shape), 40)
    assert (steps.denoise(images, 0) == images).all()
    assert (steps.enhance(images, 1, 1) == images).all()
    assert (steps.crop(images, *shape[1:]) == images).all()
    assert (steps.resize(images, shape[1]) == images).all()
    for filter in steps.FILTERS:
        assert (steps.upscale(images, 1, filter) == images).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_constant_image_stays_constant(shape: tuple[int, int, int]) -> None:
    flat = np.full((2, *shape), 77, np.uint8)
    changes = validated(Knobs, {"steps": EVERY_CHANGE}, "x").changes
    assert np.unique(steps.apply(flat, changes)).tolist() == [77]


@pytest.mark.parametrize("shape", SHAPES)
def test_denoising_takes_noise_away(shape: tuple[int, int, int]) -> None:
    clean = picture_of(shape).repeat(20, 0)
    rough = noisy(clean, 15)
    assert error(steps.denoise(rough, 0.5), clean) < 0.9 * error(rough, clean)


def test_denoising_takes_noise_and_not_strokes_from_digits() -> None:
    digits = np.round(load_digits().images[:100, None] * 15.9).astype(np.uint8)
    rough = noisy(digits, 20)
    assert error(steps.denoise(rough, 0.5), digits) < error(rough, digits)
    assert error(steps.denoise(digits, 0.5), digits) < 3


def test_denoising_keeps_edges_better_than_blurring_does() -> None:
    clean = picture_of((1, 64, 64))
    rough = noisy(clean, 20)
    blurred = steps.enhance(rough, 1, 0)  # the 3×3 smoothing that sharpness starts from
    assert error(steps.denoise(rough, 0.6), clean) < 0.7 * error(blurred, clean)
    halves = np.full((1, 3, 8, 8), 50, np.uint8)
    halves[..., 4:] = 200
    assert (steps.denoise(halves, 0.5) == halves).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_denoising_is_that_of_a_second_implementation(channels: int) -> None:
    """Non-local means pixel by pixel, straight from the formula."""
    images = noisy(np.full((1, channels, 6, 7), 120), 30)
    around = np.pad(images[0].astype(float), ((0, 0), (4, 4), (4, 4)), "reflect")
    expected = np.empty(images.shape[1:])
    for row, column in np.ndindex(6, 7):
        centres = [(row + 4 + down, column + 4 + right) for down in range(-3, 4) for right in range(-3, 4)]
        patches = np.array([around[:, y - 1 : y + 2, x - 1 : x + 2] for y, x in centres])
        unlike = ((patches - patches[24]) ** 2).mean((1, 2, 3))
        weights = np.exp(-unlike / (2 * (steps.STRONGEST * 0.5) ** 2))
        expected[:, row, column] = (weights[:, None] * patches[:, :, 1, 1]).sum(0) / weights.sum()
    assert abs(steps.denoise(images, 0.5)[0] - expected).max() < 0.51


def test_a_crop_is_the_centre() -> None:
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 1, 8, 8)
    assert (steps.crop(images, 6, 4) == images[:, :, 1:7, 2:6]).all()
    assert (steps.crop(images, 7, 8) == images[:, :, :7]).all()


def test_a_crop_that_does_not_fit_says_so() -> None:
    with pytest.raises(UserError, match=r"postprocess.steps: cannot crop 9×3 from images of 8×8; write a smaller"):
        steps.crop(np.zeros((1, 1, 8, 8), np.uint8), 9, 3)


def test_resizing_keeps_proportions_and_averages_what_becomes_smaller() -> None:
    assert steps.resize(np.zeros((2, 3, 8, 12), np.uint8), 16).shape == (2, 3, 16, 24)
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[None, None]
    small = steps.resize(board, 8)  # picking single pixels would give black or white
    assert abs(small.astype(int) - 127.5).max() < 20


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_and_sharpness_of_two_levels(channels: int) -> None:
    halves = np.full((1, channels, 8, 8), 100, np.uint8)
    halves[..., 4:] = 200
    assert np.unique(steps.enhance(halves, 1.5, 1)).tolist() == [75, 225]
    assert np.unique(steps.enhance(halves, 0, 1)).tolist() == [150]
    sharp, smooth = steps.enhance(halves, 1, 2)[0, 0, 4], steps.enhance(halves, 1, 0)[0, 0, 4]
    assert sharp[3] < 100 < smooth[3] < smooth[4] < 200 < sharp[4]
    assert sharp[1] == smooth[1] == 100, "away from the edge nothing changes"


@pytest.mark.parametrize("shape", SHAPES)
def test_averaging_an_enlarged_image_gives_it_back(shape: tuple[int, int, int]) -> None:
    rows, columns = (np.cos(2 * np.pi * (np.arange(side) + 0.5) / side) for side in shape[1:])
    images = np.tile(128 + 90 * rows[:, None] * columns, (1, shape[0], 1, 1)).astype(np.uint8)
    for filter, most in (("nearest", 0), ("bicubic", 3), ("lanczos", 2)):
        large = steps.upscale(images, 4, filter)
        assert large.shape == (1, shape[0], 4 * shape[1], 4 * shape[2])
        blocks = large.reshape(1, shape[0], shape[1], 4, shape[2], 4).astype(float)
        assert error(blocks.mean((3, 5)), images) <= most, filter


# --- the step that chooses --------------------------------------------------------------------------------------------


def rejecting(share: float, by: str = "quality") -> Reject:
    return Reject.model_validate({"do": "reject", "by": by, "share": share})


def test_so_many_are_drawn_that_as_many_as_wanted_are_left() -> None:
    wanted = np.array([90, 9, 1, 0, 7])
    assert selection.drawn(wanted, []).tolist() == wanted.tolist()
    assert selection.drawn(wanted, [rejecting(0.1)]).tolist() == [100, 10, 2, 0, 8]
    assert selection.drawn(np.array([1, 2]), [rejecting(0.9)]).tolist() == [10, 20]
    assert selection.drawn(np.array([72]), [rejecting(0.1), rejecting(0.2)]).tolist() == [100]


def test_the_best_of_every_class_are_kept_and_of_equals_the_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    scores = np.array([1.0, 3.0, 2.0, 5.0, np.inf, 5.0, 5.0])
    assert selection.keep(scores, labels, np.array([2, 3])).tolist() == [1, 2, 3, 4, 5]
    assert selection.keep(np.zeros(7), labels, np.array([1, 0])).tolist() == [0]


def test_realism_is_that_of_a_second_implementation() -> None:
    draw = np.random.default_rng(0)
    real, points = draw.normal(size=(41, 5)), draw.normal(size=(30, 5))
    radii = np.sort(np.linalg.norm(real[:, None] - real, axis=2), axis=1)[:, 3]
    dense = radii <= np.median(radii)
    expected = (radii[dense] / np.linalg.norm(points[:, None] - real[dense], axis=2)).max(1)
    assert selection.realism(points, real) == pytest.approx(expected, rel=1e-4)


def test_planted_garbage_is_rejected_and_the_counts_are_exact() -> None:
    draw = np.random.default_rng(1)
    wanted = np.array([90, 45])
    labels = np.repeat([0, 1], selection.drawn(wanted, [rejecting(0.1)]))
    points = draw.normal(size=(len(labels), 8)) + 4 * labels[:, None]
    garbage = np.array([3, 50, 99, 104, 149])
    points[garbage] += 30
    real = np.concatenate([draw.normal(size=(500, 8)), draw.normal(size=(500, 8)) + 4])
    kept = selection.keep(selection.realism(points, real), labels, wanted)
    assert not set(garbage) & set(kept)
    assert np.bincount(labels[kept]).tolist() == wanted.tolist()


def test_duplicates_among_real_images_are_no_trouble() -> None:
    real = np.concatenate([np.zeros((20, 3)), np.ones((10, 3))])
    assert not np.isnan(selection.realism(np.array([[0.0, 0, 0], [5, 5, 5]]), real)).any()


def test_planted_copies_go_first_and_the_counts_are_exact() -> None:
    draw = np.random.default_rng(2)
    train, val, samples = (draw.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8) for n in (2500, 300, 100))
    copies = np.array([0, 7, 31, 98])
    samples[copies] = noisy(train[[5, 1500, 17, 2400]], 3)
    labels, wanted = np.repeat([0, 1], 50), np.array([45, 45])
    scores = selection.originality(samples, train, val)
    assert set(copies) <= set(np.flatnonzero(np.isfinite(scores)))
    assert np.isfinite(scores).sum() <= len(copies) + 5, "about 1 % of new images are called copies"
    kept = selection.keep(scores, labels, wanted)
    assert not set(copies) & set(kept)
    assert np.bincount(labels[kept]).tolist() == wanted.tolist()


def test_blurred_samples_that_nobody_copied_stay() -> None:
    """A blurred image is nearer to every training image than it was; only a copy is far nearer to one of them."""
    draw = np.random.default_rng(3)
    train, val, unseen = (draw.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8) for n in (1000, 1000, 200))
    blurred = np.stack([gaussian_filter(image.astype(float), (0, 1, 1)) for image in unseen]).astype(np.uint8)
    as_drawn = [torch.from_numpy(images).float().flatten(1) for images in (blurred, train, val)]
    assert neighbours.memorised(*as_drawn)[0].float().mean() > 0.9
    scores = selection.originality(np.concatenate([noisy(train[:100], 8), blurred, unseen]), train, val)
    copied, soft, sharp = np.split(np.isfinite(scores), [100, 100 + len(blurred)])
    assert copied.all()
    assert soft.mean() < 0.05
    assert sharp.mean() < 0.05


def test_flat_samples_that_nobody_copied_stay() -> None:
    """Where one training image is nearly flat they are far nearer to it than to the next."""
    draw = np.random.default_rng(3)
    train, val = (draw.integers(0, 256, (500, 3, 8, 8), dtype=np.uint8) for _ in range(2))
    train[7] = noisy(np.full((3, 8, 8), 120, np.uint8), 5)
    flat = np.stack([np.full((3, 8, 8), grey, np.uint8) for grey in range(118, 123)])
    scores = selection.originality(np.concatenate([flat, train[:8]]), train, val)
    assert np.isfinite(scores).tolist() == [False] * 5 + [True] * 8


def test_more_copies_than_may_be_dropped_lose_the_nearest() -> None:
    scores = np.array([np.inf, 3.0, 1.0, 2.0])
    assert selection.keep(scores, np.zeros(4, np.int64), np.array([2])).tolist() == [0, 1]


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_sample_opens_to_the_same_pixels(kind: str, channels: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, channels, 8, 8), dtype=np.uint8)
    saving.one_each(tmp_path, kind, images, np.arange(12) % 2, ["cat", "dog"])
    files = sorted((tmp_path / kind).iterdir())
    assert [file.name for file in files[:2]] == [f"00000_cat.{kind}", f"00001_dog.{kind}"]
    for file, sample in zip(files, images, strict=True):
        pixels = np.asarray(Image.open(file).convert("L" if channels == 1 else "RGB"))
        assert (pixels == (sample[0] if channels == 1 else sample.transpose(1, 2, 0))).all()


@pytest.mark.parametrize("label", ["x" * 300, "猫" * 85])  # 85: as long as a folder's name may be
def test_a_class_may_have_a_long_name(label: str, tmp_path: Path) -> None:
    saving.one_each(tmp_path, "png", np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64), [label])
    (file,) = (tmp_path / "png").iterdir()
    number, _, word = file.stem.partition("_")
    assert number == "00000"
    assert label.startswith(word)
    assert len(word.encode()) > 190


def fade(rows: int, frames: int, channels: int) -> np.ndarray:
    """Row r goes from level 20r evenly up; uint8 R×F×C×4×4."""
    levels = 20 * np.arange(rows)[:, None] + 10 * np.arange(frames)
    return np.broadcast_to(levels[..., None, None, None], (rows, frames, channels, 4, 4)).astype(np.uint8)


def test_a_strip_shows_one_interpolation_a_row() -> None:
    sheet = saving.strips(fade(3, 5, 1))
    factor = sheet.width // (5 * 5 + 1)
    for row in range(3):
        for column in range(5):
            level = sheet.getpixel(((column * 5 + 2) * factor, (row * 5 + 2) * factor))
            assert level == 20 * row + 10 * column


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_goes_there_and_back_for_ever(channels: int, tmp_path: Path) -> None:
    saving.animation(tmp_path / "a.gif", fade(3, 5, channels))
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 8
        assert gif.info["loop"] == 0
        factor = gif.width // (3 * 5 + 1)
        assert factor > 1
        for frame, step in enumerate([0, 1, 2, 3, 4, 3, 2, 1]):
            gif.seek(frame)
            shown = gif.convert("L")
            assert [shown.getpixel(((r * 5 + 2) * factor, 2 * factor)) for r in range(3)] == [
                20 * r + 10 * step for r in range(3)
            ]


def test_an_animation_wider_than_a_gif_may_be_goes_on_below(tmp_path: Path) -> None:
    saving.animation(tmp_path / "a.gif", np.tile(np.uint8(200), (70, 3, 1, 2, 1000)))
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.size == (65 * 1001 + 1, 2 * 3 + 1)
        assert gif.convert("L").getpixel((5 * 1001 - 500, 5)) == 200, "the last of 70"
        assert gif.convert("L").getpixel((6 * 1001 - 500, 5)) == 32


# --- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def modelled(here: Project) -> Project:
    """Data, judge and an untrained model of the digits."""
    acquire("digits")
    clean("digits")
    features("digits")
    settings = recipe.recipe("digits-gan")
    card = card_of(settings, arrays.load(layout.clean("digits")), "0" * 64)
    torch.manual_seed(0)
    networks = settings.family.networks(card.network, card.shape, len(card.classes))
    layout.model("digits-gan").mkdir(parents=True)
    save_model(layout.model("digits-gan"), card, networks[settings.family.sampler])
    return here


def processed(project: Project, **section: Any) -> dict[str, np.ndarray]:
    """The arrays that the stage writes under these settings."""
    project.edit(lambda params: params["recipes"]["digits-gan"].update(postprocess=section))
    postprocess("digits-gan")
    return {file.stem: np.load(file) for file in layout.samples("digits-gan").glob("*.npy")}


@pytest.mark.slow
def test_the_stage_rejects_changes_and_saves(modelled: Project) -> None:
    plain = processed(modelled, count=100)
    assert sorted(plain) == ["labels", "samples"]
    found = processed(
        modelled,
        count=100,
        steps=[{"do": "reject", "by": "quality", "share": 0.2}, {"do": "reject", "by": "copies"}, *EVERY_CHANGE],
        save=["webp", "interpolation", "gif"],
    )
    assert found["samples"].shape == (100, 1, 54, 36)
    assert found["before"].shape == (100, 1, 8, 8)
    assert (found["labels"] == plain["labels"]).all()
    folder = layout.samples("digits-gan")
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".npy") == [
        "interpolation.gif",
        "interpolation.png",
        "webp",
    ]
    assert len(list((folder / "webp").iterdir())) == 100


def test_what_is_kept_is_as_the_model_drew_it(modelled: Project) -> None:
    """Without changes every sample left is one of those drawn, and the stage repeats itself bit for bit."""
    section: dict[str, Any] = {"count": 100, "steps": [{"do": "reject", "by": "quality", "share": 0.3}], "save": []}
    first, second = processed(modelled, **section), processed(modelled, **section)
    assert all((first[name] == second[name]).all() for name in first)
    assert (first["samples"] != first["before"]).any()
    shared = {sample.tobytes() for sample in first["samples"]} & {sample.tobytes() for sample in first["before"]}
    assert 50 <= len(shared) < 100


def test_a_crop_that_does_not_fit_is_said_before_anything_is_drawn(
    modelled: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(UserError, match=r"^params.yaml: recipes.digits-gan.postprocess.steps: cannot crop 9×9 from"):
        processed(modelled, steps=[{"do": "crop", "height": 9, "width": 9}])
    assert not layout.samples("digits-gan").exists()


def test_the_grid_has_a_class_a_row_where_there_are_few_samples_of_it(modelled: Project) -> None:
    found = processed(modelled, count=25, save=[])
    with Image.open(layout.report("digits-gan") / "grid.png") as picture:
        sheet = np.asarray(picture)[:: picture.width // 28, :: picture.width // 28]
    cells = [np.split(row, 3, axis=1) for row in np.split(sheet[1:, 1:], 10)]
    for label, row in enumerate(cells):
        own = found["samples"][found["labels"] == label]
        assert {cell[:8, :8].tobytes() for cell in row[: len(own)]} == {sample.tobytes() for sample in own}
        assert all((cell == 32).all() for cell in row[len(own) :])


def test_the_grid_of_many_classes_can_still_be_looked_at() -> None:
    labels = np.repeat(np.arange(120), 3)
    sheet = np.asarray(grid(np.uint8(labels).repeat(64).reshape(-1, 1, 8, 8), labels))
    factor = sheet.shape[1] // 28
    assert sheet[5 * factor :: 9 * factor, 5 * factor].tolist() == [number * 120 // 50 for number in range(50)]
    assert len(sheet) < 3600, "it was 11,275 pixels high"


def test_a_class_without_a_training_image_has_no_row_of_interpolation(modelled: Project) -> None:
    card = json.loads((layout.model("digits-gan") / "model.json").read_text())
    card["counts"][0] = card["counts"][7] = 0
    (layout.model("digits-gan") / "model.json").write_text(json.dumps(card))
    found = processed(modelled, count=20, save=["interpolation", "gif"])
    assert {0, 7}.isdisjoint(found["labels"].tolist())
    for name, rows, columns in (("interpolation.png", 8, 16), ("interpolation.gif", 1, 8)):
        with Image.open(layout.samples("digits-gan") / name) as picture:
            factor = picture.width // (9 * columns + 1)
            assert picture.size == ((9 * columns + 1) * factor, (9 * rows + 1) * factor)


def test_pixels_that_are_no_numbers_are_not_saved(modelled: Project) -> None:
    with pytest.raises(UserError, match=r"^pixels that are no numbers were drawn; set the knobs of sampling"):
        processed(modelled, count=20, sampling={"truncation": 1e308})
    assert not layout.samples("digits-gan").exists()
