"""Diffusion where the best velocity is known: for data that are one point or Gaussian."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project, with_every_family
from torch import Tensor, nn

from aigc_tasks import model
from aigc_tasks.card import Card
from aigc_tasks.clean.arrays import Clean, Split
from aigc_tasks.errors import UserError
from aigc_tasks.families.diffusion import Diffusion, Sampling, churned
from aigc_tasks.recipe import recipe
from aigc_tasks.train.training import card_of

MEAN = 0.3
MANY = torch.zeros(20_000, dtype=torch.int64)
FAMILY = Diffusion()


class Best(nn.Module):
    """The best velocity for pixels that are N(mean, spread²), E[ε - x | (1 - t)·x + t·ε]; writes down its calls."""

    def __init__(self, spread: float, classes: int = 0) -> None:
        super().__init__()
        self.spread, self.unknown = spread, classes
        self.batches: list[int] = []
        self.labels: list[Tensor] = []
        self.levels: list[Tensor] = []

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(x))
        self.labels.append(labels)
        self.levels.append(level)
        t = level[:, None, None, None]
        variance = ((1 - t) * self.spread) ** 2 + t**2
        return (t - (1 - t) * self.spread**2) / variance * (x - (1 - t) * MEAN) - MEAN


class Says(Best):
    """The velocity of an image is its label."""

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        super().forward(x, level, labels)
        return labels[:, None, None, None].float().expand_as(x)


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 19, 20])
@pytest.mark.parametrize("churn", [0.0, 0.5, 1.0])
def test_data_that_are_one_point_are_met_exactly(evaluations: int, churn: float) -> None:
    """Every path to the point is straight, so that the solver errs nowhere, however few its steps."""
    found = FAMILY.sample(Best(0.0), noise(50), MANY[:50], Sampling(evaluations=evaluations, churn=churn))
    torch.testing.assert_close(found, torch.full_like(found, MEAN), rtol=0, atol=1e-5)


@pytest.mark.parametrize("evaluations", [19, 20, 39, 40])
@pytest.mark.parametrize("churn", [0.0, 0.3])
def test_gaussian_data_are_met_in_mean_and_deviation(evaluations: int, churn: float) -> None:
    torch.manual_seed(0)
    found = FAMILY.sample(Best(0.5), noise(20_000, seed=1), MANY, Sampling(evaluations=evaluations, churn=churn))
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(found.std()) == pytest.approx(0.5, abs=0.04)


def test_without_churn_the_path_ends_where_the_exact_one_does() -> None:
    """x₀ = mean + spread·x₁ for Gaussian data. Four times the evaluations, at most a quarter of the error."""
    start = noise(500)
    errors = []
    for evaluations in (19, 79):
        found = FAMILY.sample(Best(0.5), start, MANY[:500], Sampling(evaluations=evaluations))
        errors.append(float((found - (MEAN + 0.5 * start)).abs().max()))
    assert errors[1] < errors[0] / 4 < 0.05


@pytest.mark.parametrize("evaluations", [*range(1, 9), 19, 20, 50])
@pytest.mark.parametrize(("guidance", "churn"), [(1.0, 0.0), (3.0, 0.0), (0.0, 0.5)])
def test_evaluations_are_the_calls_of_the_network(evaluations: int, guidance: float, churn: float) -> None:
    """Guidance takes twice the images in each."""
    network = Best(0.5, classes=10)
    sampling = Sampling(evaluations=evaluations, guidance=guidance, churn=churn)
    FAMILY.sample(network, noise(6), MANY[:6], sampling)
    assert network.batches == [6 if guidance == 1 else 12] * evaluations
    assert all(0 < float(level.min()) <= float(level.max()) <= 1 for level in network.levels)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
def test_guidance_goes_on_from_the_unlabelled_past_the_labelled(guidance: float) -> None:
    """With velocity 2 for label 2 and 10 without: 10 + g·(2 - 10)."""
    labels = torch.full((4,), 2)
    found = FAMILY.velocity(Says(0.0, classes=10), noise(4), 0.5, labels, guidance)
    torch.testing.assert_close(found, torch.full((4, 1, 1, 1), 10 - 8 * guidance))


def test_without_classes_there_is_nothing_to_be_guided_by() -> None:
    torch.manual_seed(0)
    network = Diffusion(width=4).networks("unet", (1, 8, 8), 0)["denoiser"]
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    start, labels = torch.randn(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)
    plain, guided = (
        FAMILY.sample(network, start, labels, Sampling(evaluations=3, guidance=guidance)) for guidance in (1.0, 4.0)
    )
    assert torch.equal(plain, guided)
    (objective,) = Diffusion(width=4).objectives({"denoiser": network}, start, labels)
    assert objective.loss.isfinite()


def test_guidance_of_a_model_that_is_told_no_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^here.postprocess.sampling.guidance: .* knows no labels .* `guidance: 1.0`"):
        Diffusion(conditional=False).checked(Sampling(guidance=2.0), "here")
    assert Diffusion(conditional=False).checked(Sampling(), "here") == Sampling()
    for classes in (["a", "b"], []):  # asked for, but the data set has none
        family = Diffusion(width=4)
        network = family.networks("unet", (1, 8, 8), len(classes))["denoiser"]
        knobs = family.model_dump(mode="json")
        card = Card("faces", "d", "diffusion", "unet", knobs, (1, 8, 8), classes, [1] * max(len(classes), 1), "f")
        model.save_model(tmp_path, card, network)
        assert model.Sampler(tmp_path, sampling=Sampling(churn=0.1)).sampling == Sampling(churn=0.1)
        if classes:
            assert model.Sampler(tmp_path, sampling=Sampling(guidance=2.0)).sampling == Sampling(guidance=2.0)
    with pytest.raises(UserError, match=r"^params.yaml: recipes.faces.postprocess.sampling.guidance: .* no labels"):
        model.Sampler(tmp_path, sampling=Sampling(guidance=2.0))


def test_guidance_without_labels_is_refused_before_the_training(here: Project) -> None:
    sampling = {"sampling": {"guidance": 2.0}}
    with_every_family(here).edit(lambda p: p["recipes"]["digits-diffusion"].update(postprocess=sampling))
    settings = recipe("digits-diffusion")
    split = Split(np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64))
    assert card_of(settings, Clean(["a", "b"], split, split, split), "").counts == [4, 0]
    with pytest.raises(UserError, match=r"^params.yaml: recipes.digits-diffusion.postprocess.sampling.guidance: .* no"):
        card_of(settings, Clean([], split, split, split), "")


def test_churn_is_the_only_chance_after_the_noise() -> None:
    def drawn(churn: float, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return FAMILY.sample(Best(0.5), noise(8), MANY[:8], Sampling(churn=churn))

    assert torch.equal(drawn(0.0, 1), drawn(0.0, 2))
    assert torch.equal(drawn(0.5, 1), drawn(0.5, 1))
    assert not torch.equal(drawn(0.5, 1), drawn(0.5, 2))


@pytest.mark.parametrize(("level", "factor"), [(0.5, 2.0), (0.1, 1.5), (0.9, 2.0), (0.3, 1.0)])
def test_churned_is_the_image_at_a_higher_level(level: float, factor: float) -> None:
    """Noise and image in the ratio t/(1 - t), made ``factor`` times as large; both still belong to the new level."""
    torch.manual_seed(0)
    x, raised = churned((1 - level) * MEAN + level * noise(20_000, seed=1), level, factor)
    assert raised / (1 - raised) == pytest.approx(factor * level / (1 - level))
    assert float(x.mean()) == pytest.approx((1 - raised) * MEAN, abs=4 * raised / 20_000**0.5)
    assert float(x.std()) == pytest.approx(raised, rel=0.03)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_asked_share_of_the_labels_is_hidden(share: float) -> None:
    torch.manual_seed(0)
    network = Best(0.5, classes=10)
    next(Diffusion(hidden_labels=share).objectives({"denoiser": network}, noise(20_000), MANY + 3))
    (labels,) = network.labels
    assert set(labels.tolist()) <= {3, 10}
    assert float((labels == 10).float().mean()) == pytest.approx(share, abs=4 * (0.25 / 20_000) ** 0.5)


def test_levels_are_logit_normal() -> None:
    torch.manual_seed(0)
    network = Best(0.5)
    next(FAMILY.objectives({"denoiser": network}, noise(20_000), MANY))
    odds = network.levels[0].logit()
    assert float(odds.mean()) == pytest.approx(0, abs=0.03)
    assert float(odds.std()) == pytest.approx(1, abs=0.03)


def test_the_loss_at_the_optimum_is_what_nobody_can_know() -> None:
    """Nothing for one point; Var(ε - x | xₜ) = s² / ((1 - t)²s² + t²) for Gaussian data."""
    torch.manual_seed(0)
    point = next(FAMILY.objectives({"denoiser": Best(0.0)}, torch.full((1000, 1, 1, 1), MEAN), MANY[:1000]))
    assert float(point.loss) == pytest.approx(0, abs=1e-6)
    best, worse = Best(0.5), Best(0.6)
    losses = []
    for network in (best, worse):
        torch.manual_seed(1)
        losses.append(float(next(FAMILY.objectives({"denoiser": network}, MEAN + 0.5 * noise(20_000), MANY)).loss))
    t = best.levels[0]
    assert losses[0] == pytest.approx(float((0.25 / (((1 - t) * 0.5) ** 2 + t**2)).mean()), rel=0.05)
    assert losses[0] < losses[1]
