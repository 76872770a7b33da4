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


def test_the_interval_of_a_share_is_as_wide_as_the_binomial_says() -> None:
    low, high = confidence.of_mean(np.arange(1000) % 5 == 0, seed=0)
    assert (low + high) / 2 == pytest.approx(0.2, abs=0.005)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.2 * 0.8 / 1000), rel=0.1)
    assert confidence.of_mean(np.ones(50), seed=0) == (1, 1)


def test_the_expected_fid_is_covered_in_95_of_100_cases() -> None:
    """FID of 200 samples against 300 real ones, whose expectation is the mean over the cases."""
    pairs = [(normal(200, 0.3, seed), normal(300, 0, 1000 + seed)) for seed in range(200)]
    expected = np.mean([quality.fid(*pair) for pair in pairs])
    assert expected > 1.05 * 4 * 0.3**2  # far above the FID of the distributions, so that the difference matters
    intervals = [confidence.of_fid(*pair, seed, 100) for seed, pair in enumerate(pairs)]
    assert np.mean([low <= expected <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.05)


def test_the_interval_is_about_the_fid_that_is_reported() -> None:
    """Also where features are constant, and where the plain bootstrap would be far above: equal distributions."""
    for mean in (0, 1):
        generated, real = (torch.cat([normal(300, shift, shift), torch.ones(300, 2)], 1) for shift in (mean, 0))
        low, high = confidence.of_fid(generated + 100, real + 100, seed=0)
        assert 0 <= low < quality.fid(generated, real) < high or mean == 0


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
        lambda seed: confidence.of_fid(generated, real, seed, 50),
    ):
        assert interval(0) == interval(0) != interval(1)
