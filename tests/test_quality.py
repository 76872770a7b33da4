"""FID and KID against closed forms and a second implementation; the judge; what is said of classes."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import Project
from torch import Tensor

from aigc_tasks.card import Card, proportional, shares
from aigc_tasks.clean.arrays import SPLITS, Clean, Split
from aigc_tasks.errors import UserError
from aigc_tasks.evaluate import doubt, figures, quality, report
from aigc_tasks.evaluate.evaluation import Evidence, suffices
from aigc_tasks.features import Knobs
from aigc_tasks.features.judge import Judge, learn, look
from aigc_tasks.features.trunks import Convolutional
from aigc_tasks.modalities import image
from aigc_tasks.recipe import recipe


def normal(count: int, mean: float, spread: float, seed: int) -> Tensor:
    return mean + spread * torch.randn((count, 4), generator=torch.Generator().manual_seed(seed))


def noise(count: int, mean: float, spread: float, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).normal(mean, spread, (count, 1, 2, 2))
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def test_fid_of_shifted_gaussians_is_the_squared_distance_of_the_means() -> None:
    """Equal covariances: FID = |μ₁ - μ₂|². Here four features, each 0.2 apart."""
    first = normal(5000, 0.4, 0.04, 0)
    assert quality.fid(first + 0.2, first) == pytest.approx(4 * 0.2**2, rel=1e-3)


def test_fid_of_stretched_gaussians_is_the_squared_distance_of_the_deviations() -> None:
    """Equal means, isotropic: FID = d·(σ₁ - σ₂)²."""
    found = quality.fid(normal(40_000, 0.5, 0.12, 1), normal(40_000, 0.5, 0.04, 2))
    assert found == pytest.approx(4 * 0.08**2, rel=0.03)


def test_fid_is_that_of_a_second_implementation() -> None:
    first, second = normal(300, 0.4, 0.12, 3), normal(200, 0.5, 0.08, 4)
    a, b = first.numpy(), second.numpy()
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert quality.fid(first, second) == pytest.approx(expected, rel=1e-4)


def test_kid_is_the_unbiased_squared_mmd() -> None:
    """With one subset of all samples KID is the closed-form estimator with the cubic kernel."""
    first, second = normal(60, 0.4, 0.12, 5), normal(60, 0.6, 0.08, 6)
    a, b = first.double().numpy(), second.double().numpy()

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / 4 + 1) ** 3

    m = len(a)
    within = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (m * (m - 1)) for x in (a, b))
    expected = within - 2 * kernel(a, b).mean()
    mean, spread = quality.kid(first, second, subsets=3, size=60, seed=0)
    assert mean == pytest.approx(expected, rel=1e-4)
    assert spread == pytest.approx(0, abs=1e-6)


def test_the_same_figures_every_time() -> None:
    first, second = normal(300, 0.4, 0.12, 3), normal(200, 0.5, 0.08, 4)
    assert len({quality.kid(first, second, 10, 50, seed=1) for _ in range(2)}) == 1


def test_entropy_is_one_for_equal_classes_and_zero_for_one() -> None:
    assert quality.entropy(np.arange(100) % 10, 10) == pytest.approx(1)
    assert str(quality.entropy(np.zeros(100, np.int64), 10)) == "0.0", "not -0, which tables would show"
    assert quality.entropy(np.arange(100) % 2, 4) == pytest.approx(log(2) / log(4))


def test_classes_asked_and_seen() -> None:
    asked, seen = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    found = figures.classes(asked, seen, 3, seed=0)
    assert found["class_accuracy"] == 0.75
    assert found["classes_present"] == 2
    assert found["class_accuracy_low"] <= 0.75 <= found["class_accuracy_high"]
    assert "class_accuracy" not in figures.classes(None, seen, 3, seed=0)


def test_the_judge_learns_and_its_features_have_mean_square_one() -> None:
    """Two classes that differ in brightness."""
    torch.manual_seed(0)
    images = np.concatenate([noise(100, 60, 20, 7), noise(100, 190, 20, 8)])
    data = Split(images, np.repeat([0, 1], 100))
    judge = Judge(Convolutional((1, 2, 2), width=4), 2)
    learn(judge, "classifier", data, Knobs(steps=100), "test")
    features, seen = look(judge, images)
    assert (seen == data.labels).mean() > 0.95
    assert float(features.square().mean()) == pytest.approx(1, rel=1e-4)


def test_without_a_floor_there_is_no_ratio() -> None:
    assert figures.ratio(0.6, 0.5, "digits") == pytest.approx(1.2)
    for floor in (0.0, -1e-9, 1e-8):
        with pytest.raises(UserError, match=r"digits\.features\.kind: to this judge training images are no") as error:
            figures.ratio(0.6, floor, "digits")
        assert "\n" not in str(error.value)


def test_too_few_images_are_an_error_that_says_the_mend(here: Project) -> None:
    pictures = noise(5, 100, 30, 0)

    def evidence(samples: int = 5, **counts: int) -> Evidence:
        splits = {name: Split(pictures[: counts.get(name, 5)], np.zeros(5, np.int64)) for name in SPLITS}
        known = Clean([], **splits)
        judge, card = Judge(Convolutional((1, 2, 2), width=4), 0), Card("", "", "", "", {}, (1, 2, 2), [], [5], "")
        device = torch.device("cpu")
        return Evidence(recipe("digits-gan"), card, known, judge, pictures[:samples], np.zeros(5), device)

    suffices(evidence())
    for split in SPLITS:
        with pytest.raises(UserError, match=f"data/clean/digits: 1 {split} images; at least 2 are needed"):
            suffices(evidence(**{split: 1}))
    with pytest.raises(UserError, match=r"recipes\.digits-gan\.postprocess\.count: at least 2 samples are needed"):
        suffices(evidence(samples=1))


def test_few_images_for_many_features_are_said_with_the_result() -> None:
    found = {"samples": 1000, "test_images": 40, "features": 64, "fid": 1.0, "fid_ratio": 2.0}
    found |= {"precision": 1.0, "recall": 1.0, "memorised": 0.0}
    assert doubt(found) == "few images (40) for 64 features: FID and its ratio are not to be trusted"
    assert doubt(found) in report.sentence(found)
    assert doubt(found | {"test_images": 64}) == ""
    assert "trusted" not in report.sentence(found | {"test_images": 64})


@pytest.mark.parametrize(("copies", "told"), [(0, True), (194, False)])
def test_samples_that_are_near_by_blur_alone_are_told_from_copies(copies: int, told: bool) -> None:
    """All of 200 near to a training image by pixels, as average images are; some or none of them by the relative."""
    found = {"samples": 200, "test_images": 100, "features": 64, "fid": 1.0, "fid_ratio": 2.0}
    found |= {"precision": 1.0, "recall": 1.0, **figures.share("memorised", np.ones(200, bool))}
    found |= figures.share("memorised_relative", np.arange(200) < copies)
    said = "; 100.0% memorised, but 0.0% by the relative distance: blurred rather than copied"
    assert report.sentence(found).endswith(said if told else "; 100.0% memorised")


def test_the_report_says_how_many_images_a_step_took(here: Project, tmp_path: Path) -> None:
    """No more than there are: 500 of the batch of 512."""
    here.edit(lambda p: p["recipes"]["digits-gan"]["train"].update(batch=512))
    card = Card("digits-gan", "digits", "gan", "resnet", {}, (1, 8, 8), [], [200, 300], "")
    found = {"samples": 500, "test_images": 300, "features": 64, "fid": 1.0, "fid_ratio": 2.0}
    found |= {"precision": 1.0, "recall": 1.0, "memorised": 0.0}
    (tmp_path / "curves.csv").write_text("step,loss\n20,1.0\n40,0.5\n")
    report.write(tmp_path, recipe("digits-gan"), card, found, [{"step": 30, "fid": 1.0}], 0.5, [1.0])
    assert "60 steps of 500 images" in (tmp_path / "report.html").read_text()


def test_samples_are_asked_for_in_the_proportions_of_the_data() -> None:
    assert np.bincount(proportional([10_000, 30_000, 60_000], 1000)).tolist() == [100, 300, 600]
    assert np.bincount(proportional([127, 122, 129], 378)).tolist() == [126, 126, 126]  # as chance may have it
    assert np.bincount(proportional([5, 0, 5], 10), minlength=3).tolist() == [5, 0, 5]
    assert proportional([5], 3).tolist() == [0, 0, 0]


def test_pixels_survive_encoding_and_decoding() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert (image.decode(image.encode(levels)) == levels).all()
    encoded = image.encode(torch.from_numpy(levels))
    assert float(encoded.min()) == -1
    assert float(encoded.max()) == 1
    assert image.decode(np.array([[[[-2.0, 2.0]]]])).ravel().tolist() == [0, 255]


def test_images_of_few_levels_are_drawn_in_these() -> None:
    real = np.array([0, 16, 255, 16], np.uint8).reshape(1, 1, 2, 2)
    assert image.coarse(real) == [0, 16, 255]
    drawn = image.decode(image.encode(np.array([0.0, 7.4, 8.0, 135.4, 136.0, 300.0])), image.coarse(real))
    assert drawn.tolist() == [0, 0, 16, 16, 255, 255]
    assert image.coarse(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_image_in_its_place(channels: int) -> None:
    images = np.stack([np.full((channels, 4, 6), 10 * number, np.uint8) for number in range(7)])
    grid = image.grid(images, columns=3)
    factor = grid.width // (3 * 7 + 1)
    assert factor > 1
    for number in range(7):
        row, column = divmod(number, 3)
        pixel = grid.getpixel(((column * 7 + 3) * factor, (row * 5 + 2) * factor))
        assert np.ravel(pixel).tolist() == [10 * number] * channels


def test_shares_are_closer_to_the_truth_than_what_was_counted() -> None:
    rng = np.random.default_rng(0)
    for truth in ([0.1] * 10, [0.05, 0.15] * 5):
        counted = rng.multinomial(1000, truth, size=200)
        errors = [((shares(list(counts)) - truth) ** 2).sum() for counts in counted]
        assert np.mean(errors) < ((counted / 1000 - truth) ** 2).sum(axis=1).mean()
    assert shares([8, 0, 3]).sum() == pytest.approx(1)
    assert shares([8, 0, 3])[1] == 0
