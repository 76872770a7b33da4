"""Precision, recall, density, coverage and memorisation against closed forms and two other implementations."""

from __future__ import annotations

import numpy as np
import prdc
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from aigc_tasks.features import neighbours
from aigc_tasks.features.neighbours import (
    Manifold,
    closest,
    contrast,
    manifold,
    memorised,
    nearest,
    radii,
    relative,
    suspicious,
    telling,
)


def normal(count: int, seed: int, width: int = 8) -> Tensor:
    return torch.randn((count, width), generator=torch.Generator().manual_seed(seed))


def clustered(count: int, clusters: int, seed: int) -> Tensor:
    """``count`` points evenly in narrow clusters, far apart."""
    return 20 * normal(clusters, 99)[torch.arange(count) % clusters] + normal(count, seed)


def figures(found: Manifold) -> dict[str, float]:
    return {name: float(values.float().mean()) for name, values in found._asdict().items()}


PAIRS = {
    "random": (normal(400, 0), normal(300, 1)),
    "narrower": (0.8 * normal(400, 0), normal(400, 1)),
    "clusters missing": (clustered(300, 3, 0), clustered(400, 5, 1)),
    "far apart": (normal(100, 0) + 100, normal(100, 1)),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("k", [1, 5])
def test_the_figures_are_those_of_prdc(pair: str, k: int) -> None:
    generated, real = PAIRS[pair]
    expected = prdc.compute_prdc(real.double().numpy(), generated.double().numpy(), k)
    assert figures(manifold(generated, real, k)) == pytest.approx(expected)


@pytest.mark.parametrize("pair", PAIRS)
def test_precision_and_recall_are_those_of_torch_fidelity(pair: str) -> None:
    generated, real = PAIRS[pair]
    settings = {"prc_neighborhood": 3, "prc_batch_size": 100, "save_cpu_ram": True, "verbose": False}
    expected = prc_features_to_metric(generated, real, **settings)
    found = figures(manifold(generated, real, 3))
    assert [found["precision"], found["recall"]] == pytest.approx([expected["precision"], expected["recall"]])


def test_a_set_against_itself_is_perfect() -> None:
    """A ball holds its own centre and, being open, k - 1 neighbours: density is exactly 1."""
    points = normal(300, 0)
    assert figures(manifold(points, points, 5)) == pytest.approx(dict.fromkeys(Manifold._fields, 1))


def test_sets_far_apart_have_nothing_in_common() -> None:
    assert set(figures(manifold(normal(100, 0) + 100, normal(100, 1), 5)).values()) == {0}


def test_dropped_modes_cost_recall_and_coverage_only() -> None:
    found = figures(manifold(clustered(500, 2, 0), clustered(500, 5, 1), 5))
    assert found["precision"] > 0.9
    assert found["density"] > 0.9
    assert found["recall"] == pytest.approx(0.4, abs=0.05)
    assert found["coverage"] == pytest.approx(0.4, abs=0.05)


def test_an_outlier_with_its_huge_ball_fools_precision_but_not_density() -> None:
    """Generated samples far from all real ones but within the reach of a single real outlier."""
    real = torch.cat([normal(300, 0), torch.full((1, 8), 50.0)])
    found = figures(manifold(normal(300, 1) + 25, real, 5))
    assert found["precision"] == 1
    assert found["density"] == pytest.approx(1 / 5)
    assert found["coverage"] == pytest.approx(1 / 301)


def test_duplicates_are_points_too() -> None:
    points = torch.tensor([[0.0], [0.0], [3.0], [7.0]])
    assert radii(points, 1).tolist() == [0, 0, 3, 4]
    assert radii(points, 2).tolist() == [3, 3, 3, 7]


def test_the_nearest_is_found_in_spite_of_a_large_offset() -> None:
    """Where |q|² + |r|² - 2qr has no correct digit left."""
    queries, references = normal(50, 0) + 100, normal(400, 1) + 100
    apart = np.linalg.norm(queries[:, None].double().numpy() - references[None].double().numpy(), axis=2)
    found, rows = nearest(queries, references)
    assert rows.tolist() == apart.argmin(1).tolist()
    assert found.tolist() == pytest.approx(apart.min(1))
    assert nearest(references, references)[0].tolist() == [0] * 400


def test_one_reference_is_enough() -> None:
    assert nearest(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))[0].tolist() == [5]


def test_blocks_do_not_change_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    generated, real = PAIRS["random"]
    whole = [*manifold(generated, real, 5), *nearest(generated, real)]
    monkeypatch.setattr(neighbours, "BLOCK", 7 * len(real))
    blocks = [*manifold(generated, real, 5), *nearest(generated, real)]
    assert all(torch.equal(one, other) for one, other in zip(whole, blocks, strict=True))


def test_real_images_are_found_memorised_as_often_as_was_allowed() -> None:
    train, test = normal(2000, 0), normal(5000, 1)
    assert int(memorised(test, train, test)[0].sum()) == 50
    assert float(memorised(normal(5000, 2), train, test)[0].float().mean()) == pytest.approx(0.01, abs=0.006)


@pytest.mark.parametrize("disturbance", [0, 0.01])
def test_copies_are_memorised(disturbance: float) -> None:
    train, test = normal(2000, 0), normal(1000, 1)
    accused, rows, apart = memorised(train[:300] + disturbance * normal(300, 2), train, test)
    assert accused.all()
    assert rows.tolist() == list(range(300))
    assert apart.max() <= 10 * disturbance


def test_far_noise_is_not_memorised() -> None:
    assert not memorised(10 * normal(300, 2), normal(2000, 0), normal(1000, 1))[0].any()


def test_a_copy_counts_even_where_test_and_training_images_overlap() -> None:
    """The threshold is 0: copies count, near ones no longer, and so do the test images that are copies themselves."""
    train = normal(500, 0)
    test = torch.cat([train[:50], normal(450, 1)])
    accused, _, _ = memorised(torch.cat([train[:20], train[:20] + 0.01]), train, test)
    assert accused.tolist() == [True] * 20 + [False] * 20
    assert int(memorised(test, train, test)[0].sum()) == 50


def test_ties_accuse_nobody() -> None:
    """All test images equally far: none is nearer than another."""
    train = torch.zeros(1, 2)
    test = torch.tensor([[3.0, 4.0]]).repeat(100, 1)
    assert not memorised(test, train, test)[0].any()


def test_the_closest_are_those_of_the_whole_matrix() -> None:
    queries, references = normal(40, 0), normal(200, 1)
    expected = torch.cdist(queries.double(), references.double()).sort(1)
    apart, rows = closest(queries, references, 10)
    assert torch.equal(rows, expected.indices[:, :10])
    torch.testing.assert_close(apart.double(), expected.values[:, :10], rtol=1e-5, atol=1e-5)


def test_relative_distances_are_those_over_the_mean_of_the_next() -> None:
    apart = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    assert relative(apart).tolist() == pytest.approx([1 / 3, 0])
    assert suspicious(relative(apart), torch.ones(100)).tolist() == [True, True]
    one = closest(normal(5, 0), normal(1, 1))[0]  # no next ones: nobody is accused
    assert not suspicious(relative(one), relative(one)).any()


def test_what_is_average_is_near_in_pixels_and_not_relative_to_others() -> None:
    """Samples between all training samples, as a blurred or untrained model draws them, beside true copies."""
    train, test, val = normal(2000, 0, 64), normal(1000, 1, 64), normal(1000, 2, 64)
    average, copies = 0.05 * normal(300, 3, 64), train[:300] + 0.1 * normal(300, 4, 64)
    assert memorised(average, train, test)[0].all()
    usual = relative(closest(test, train)[0])
    found = {name: relative(closest(x, train)[0]) for name, x in {"a": average, "c": copies, "v": val}.items()}
    assert suspicious(found["a"], usual).float().mean() < 0.02
    assert suspicious(found["c"], usual).float().mean() > 0.98
    assert suspicious(found["v"], usual).float().mean() == pytest.approx(0.01, abs=0.01)


def test_contrast_is_the_distance_from_the_picture_in_its_mean_colour() -> None:
    images = torch.rand(5, 3, 4, 6)
    plain = images.mean((2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(contrast(images.flatten(1), 3), (images - plain).flatten(1).norm(dim=1))


def test_a_nearly_flat_picture_is_no_copy_of_the_flattest_training_image() -> None:
    """It is far nearer to that one than to the next, as any flat picture is."""
    train, test = (60 * normal(600, seed, 64) + 128 for seed in (0, 1))
    train[:3] = 128 + 5 * normal(3, 2, 64)
    plain, usual = contrast(train, 1), relative(closest(test, train)[0])
    flat = closest(128 + torch.arange(-4.0, 5.0)[:, None].repeat(1, 64), train)
    assert suspicious(relative(flat[0]), usual).all()
    assert not suspicious(telling(*flat, plain), usual).any()
    copies = torch.cat([train[:9], train[:9] + normal(9, 4, 64)])
    assert suspicious(telling(*closest(copies, train), plain), usual).all()
