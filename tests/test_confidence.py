"""Intervals cover the true value about as often as they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc_tasks.evaluate import confidence, quality


def normal(count: int, mean: float, seed: int) -> Tensor:
    return mean + torch.randn((count, 4), generator=torch.Generator().manual_seed(seed))


def test_the_mean_is_covered_in_95_of_100_cases() -> None:
    cases = np.random.default_rng(0).exponential(size=(300, 100))  # of mean 1, and skewed
    intervals = [confidence.of_mean(values, seed, 200) for seed, values in enumerate(cases)]
    assert np.mean([low <= 1 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.04)


def test_the_interval_of_a_share_is_wilsons() -> None:
    """As statsmodels' ``proportion_confint(…, method="wilson")`` and Brown, Cai & DasGupta 2001 have it."""
    found = np.arange(1000) % 5 == 0
    low, high = confidence.of_share(found)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.2 * 0.8 / 1000), rel=0.01)
    assert confidence.of_share(np.arange(10) < 2) == pytest.approx((0.0567, 0.5098), abs=1e-4)
    assert confidence.of_share(np.zeros(50, bool)) == pytest.approx((0, 0.0713), abs=1e-4)
    assert confidence.of_share(np.ones(50, bool)) == pytest.approx((0.9287, 1), abs=1e-4)


def test_a_rare_share_is_covered() -> None:
    """Where none is found in most cases, and the interval from resampling would be of no width."""
    cases = np.random.default_rng(0).random((1000, 200)) < 0.005
    intervals = [confidence.of_share(found) for found in cases]
    assert np.mean([low <= 0.005 <= high for low, high in intervals]) > 0.9
    assert all(low < high for low, high in intervals)


@pytest.mark.slow
def test_the_expected_fid_is_covered_in_95_of_100_cases() -> None:
    """FID of 200 samples against 300 real ones, whose expectation is the mean over the cases."""
    pairs = [(normal(200, 0.3, seed), normal(300, 0, 1000 + seed)) for seed in range(200)]
    expected = np.mean([quality.fid(*pair) for pair in pairs])
    assert expected > 1.05 * 4 * 0.3**2  # far above the FID of the distributions, so that the difference matters
    intervals = [confidence.of_fid(quality.fid(*pair), *pair, seed, 100) for seed, pair in enumerate(pairs)]
    assert np.mean([low <= expected <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.05)


def test_the_interval_is_about_the_fid_that_is_reported() -> None:
    """Also where features are constant, and where the plain bootstrap would be far above: equal distributions."""
    for mean in (0, 1):
        generated, real = (torch.cat([normal(300, shift, shift), torch.ones(300, 2)], 1) for shift in (mean, 0))
        figure = quality.fid(generated, real)
        low, high = confidence.of_fid(figure, generated + 100, real + 100, seed=0)
        assert 0 <= low < figure < high or mean == 0


def decaying(count: int, width: int, size: float, seed: int) -> Tensor:
    """Features whose deviations fall as those of a deep network's principal components do."""
    spread = torch.arange(1, width + 1) ** -0.7
    return size * spread * torch.randn((count, width), generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_the_interval_of_many_features_is_as_wide_as_redrawn_samples_scatter() -> None:
    pairs = [(decaying(400, 300, 1.1, seed), decaying(300, 300, 1, 1000 + seed)) for seed in range(20)]
    found = [quality.fid(*pair) for pair in pairs]
    low, high = confidence.of_fid(found[0], *pairs[0], seed=0)
    assert low < found[0] < high
    assert 0.8 < (high - low) / (2 * 1.96 * np.std(found)) < 4


@pytest.mark.parametrize(("count", "others"), [(400, 350), (400, 200), (50, 400), (50, 30)])
def test_fid_of_many_features_is_that_of_torchmetrics(count: int, others: int) -> None:
    """Also of fewer images than features, and far from 0."""
    first, second = decaying(count, 64, 1.1, 0) + 5, decaying(others, 64, 1, 1) + 5
    assert quality.wide_fid(first, second) == pytest.approx(quality.fid(first, second), rel=1e-5)


def test_fid_is_that_of_torchmetrics() -> None:
    first, second = normal(300, 0.5, 3), 2 * normal(200, 0, 4)
    found = confidence.frechet(*(confidence.moments(x.double().numpy(), np.ones(len(x))) for x in (first, second)))
    assert found == pytest.approx(quality.fid(first, second), rel=1e-5)


def test_counting_a_sample_twice_is_having_it_twice() -> None:
    features = normal(5, 0, 0).double().numpy()
    times = np.array([2, 0, 1, 3, 1])
    mean, covariance = confidence.moments(features, times)
    repeated = features.repeat(times, axis=0)
    np.testing.assert_allclose(mean, repeated.mean(0))
    np.testing.assert_allclose(covariance, np.cov(repeated.T))


def test_the_expected_entropy_is_covered() -> None:
    rng = np.random.default_rng(0)
    cases = [rng.choice(4, 200, p=[0.5, 0.3, 0.15, 0.05]) for _ in range(150)]
    expected = np.mean([quality.entropy(classes, 4) for classes in cases])
    intervals = [confidence.of_entropy(classes, 4, seed, 200) for seed, classes in enumerate(cases)]
    assert np.mean([low <= expected <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.05)


def test_entropy_stays_between_0_and_1() -> None:
    low, high = confidence.of_entropy(np.arange(500) % 10, 10, seed=0)
    assert 0.97 < low <= high <= 1
    assert confidence.of_entropy(np.zeros(50, np.int64), 10, seed=0) == (0, 0)


def test_the_seed_decides() -> None:
    classes, generated, real = np.arange(30) % 7, normal(50, 1, 0), normal(50, 0, 1)
    for interval in (
        lambda seed: confidence.of_mean(generated.numpy().ravel(), seed),
        lambda seed: confidence.of_entropy(classes, 7, seed),
        lambda seed: confidence.of_fid(1.0, generated, real, seed, 50),
    ):
        assert interval(0) == interval(0) != interval(1)
