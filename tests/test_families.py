"""GAN objectives and networks against values known in closed form; what every family's model does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from aigc_tasks import model
from aigc_tasks.card import Card
from aigc_tasks.errors import UserError
from aigc_tasks.families import Family
from aigc_tasks.families.diffusion import Diffusion
from aigc_tasks.families.gan import Gan, augmented, gradient_penalties
from aigc_tasks.families.vae import Vae
from aigc_tasks.knobs import Knobs

Kind = Literal["colour", "translation", "cutout"]
KINDS: list[Kind] = ["colour", "translation", "cutout"]
FAMILIES: dict[str, tuple[Family, str]] = {
    "gan": (Gan(width=4), "resnet"),
    "vae": (Vae(width=4, latent=4), "resnet"),
    "diffusion": (Diffusion(width=4), "unet"),
}


class Plane(nn.Module):
    """A discriminator that is a linear function, w·x: its gradient is w everywhere."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights


class Constant(nn.Module):
    """A generator that makes the same image whatever the noise."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.pixels = nn.Parameter(pixels)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.pixels.expand(len(z), 1, 2, 2)


def losses(family: Gan, weights: list[float], real: float, fake: float) -> dict[str, tuple[float, dict[str, float]]]:
    networks: dict[str, nn.Module] = {
        "discriminator": Plane(torch.tensor(weights)),
        "generator": Constant(torch.full((1, 2, 2), fake)),
    }
    images, labels = torch.full((4, 1, 2, 2), real), torch.zeros(4, dtype=torch.int64)
    return {
        objective.network: (objective.loss.item(), {name: value.item() for name, value in objective.curves.items()})
        for objective in family.objectives(networks, images, labels)
    }


def test_a_blind_discriminator_costs_log_two() -> None:
    for objective in ("relativistic", "bce"):
        found = losses(Gan(objective=objective), [0.0] * 4, 1.0, -1.0)  # type: ignore[arg-type]
        assert found["discriminator"][0] == pytest.approx(math.log(2))
        assert found["generator"][0] == pytest.approx(math.log(2))


def test_the_relativistic_loss_is_that_of_the_pair() -> None:
    """D(real) - D(fake) = Σw·(1 - (-1)) = 2 for w = ¼: softplus(-2) for the one, softplus(2) for the other."""
    found = losses(Gan(penalty=0.0), [0.25] * 4, 1.0, -1.0)
    assert found["discriminator"][0] == pytest.approx(math.log(1 + torch.tensor(-2.0).exp().item()), rel=1e-5)
    assert found["generator"][0] == pytest.approx(math.log(1 + torch.tensor(2.0).exp().item()), rel=1e-5)
    assert found["discriminator"][1]["margin"] == pytest.approx(2.0)


def test_penalties_are_the_squared_slope() -> None:
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    both = torch.randn(6, 1, 2, 2, requires_grad=True)
    r1, r2 = gradient_penalties(Plane(weights)(both, torch.zeros(6)), both)
    assert r1.item() == r2.item() == pytest.approx(float(weights.square().sum()))
    found = losses(Gan(penalty=0.3), [0.25] * 4, 1.0, -1.0)["discriminator"]
    bare = losses(Gan(penalty=0.0), [0.25] * 4, 1.0, -1.0)["discriminator"]
    assert found[0] - bare[0] == pytest.approx(0.3 / 2 * (0.25 + 0.25), rel=1e-5)


class Bowl(nn.Module):
    """A discriminator |x|²/2: its gradient at x is x."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return images.square().flatten(1).sum(1) / 2


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_quarter_of_a_batch_is_penalised_and_all_of_it_compared(count: int) -> None:
    images, some = torch.ones(count, 1, 2, 2), math.ceil(count / 4)
    images[some:] *= 3
    networks: dict[str, nn.Module] = {"discriminator": Bowl(), "generator": Constant(torch.full((1, 2, 2), 0.5))}
    objective = next(Gan().objectives(networks, images, torch.zeros(count, dtype=torch.int64)))
    assert float(objective.curves["r1"]) == pytest.approx(4)  # four pixels of 1
    assert float(objective.curves["r2"]) == pytest.approx(1)
    assert float(objective.curves["margin"]) == pytest.approx(2 * (some + 9 * (count - some)) / count - 0.5)


def test_the_textbook_gan_has_the_textbooks_layers() -> None:
    networks = Gan(objective="bce", latent=100, width=256).networks("mlp", (1, 28, 28), 0)

    def sizes(network: nn.Module) -> list[tuple[int, int]]:
        return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]

    assert sizes(networks["generator"]) == [(100, 256), (256, 512), (512, 1024), (1024, 784)]
    assert sizes(networks["discriminator"]) == [(784, 512), (512, 256), (256, 1)]
    assert {layer.negative_slope for layer in networks["generator"].modules() if isinstance(layer, nn.LeakyReLU)} == {
        0.2
    }


@pytest.mark.parametrize("architecture", ["mlp", "resnet"])
def test_labels_matter_when_conditional_and_only_then(architecture: str) -> None:
    for conditional in (True, False):
        torch.manual_seed(0)
        family = Gan()
        networks = family.networks(architecture, (1, 8, 8), 10 if conditional else 0)
        images, noise = torch.randn(2, 1, 8, 8), torch.randn(1, family.latent).repeat(2, 1)
        labels = torch.tensor([3, 4])
        generated = networks["generator"](noise, labels)
        assert (not torch.equal(generated[0], generated[1])) == conditional
        judged = [networks["discriminator"](images, labels), networks["discriminator"](images, labels.flip(0))]
        assert (not torch.equal(*judged)) == conditional


def test_an_mlp_refuses_attention() -> None:
    with pytest.raises(UserError, match=r"model.attention: .* set `network: resnet`"):
        Gan(attention=True).networks("mlp", (1, 8, 8), 0)
    assert Gan(attention=True, width=4).networks("resnet", (1, 8, 8), 0)


@pytest.mark.parametrize("kinds", [[], *[[kind] for kind in KINDS], KINDS])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 20), (3, 5, 7)])
def test_augmentation_keeps_the_shape_and_lets_gradients_through(
    kinds: list[Kind], shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    images = (torch.rand(16, *shape) * 2 - 1).requires_grad_()
    seen = augmented(images, kinds)
    assert seen.shape == images.shape
    still = kinds == [] or (kinds == ["translation"] and max(shape[1:]) < 8)  # an eighth of 7 pixels is none
    assert torch.equal(seen, images) == still
    (slopes,) = torch.autograd.grad(seen.square().sum(), images)
    assert slopes.isfinite().all()
    assert slopes.any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_is_augmented_in_its_own_way(kind: Kind) -> None:
    torch.manual_seed(0)
    seen = augmented((torch.rand(1, 3, 16, 16) * 2 - 1).expand(12, -1, -1, -1), [kind])
    assert len({image.numpy().tobytes() for image in seen}) > 6


def test_translation_moves_by_at_most_an_eighth_and_brings_in_black() -> None:
    torch.manual_seed(0)
    images = torch.zeros(500, 2, 16, 24)
    images[:, :, 8, 12] = 1
    seen = augmented(images, ["translation"])
    found = (seen == 1).nonzero()
    assert len(found) == 500 * 2
    assert set((found[:, 2] - 8).tolist()) == {-2, -1, 0, 1, 2}
    assert set((found[:, 3] - 12).tolist()) == {-3, -2, -1, 0, 1, 2, 3}
    for image in seen[:20]:
        row, column = (image[0] == 1).nonzero()[0].tolist()
        expected = torch.full((2, 16, 24), -1.0)
        down, right = row - 8, column - 12
        expected[:, max(down, 0) : 16 + down, max(right, 0) : 24 + right] = 0
        expected[:, row, column] = 1
        assert torch.equal(image, expected)


def test_cutout_leaves_a_grey_hole_of_up_to_half_the_side() -> None:
    torch.manual_seed(0)
    holes = augmented(torch.ones(300, 3, 16, 24), ["cutout"]) == 0
    assert (holes == holes[:, :1]).all()
    heights, widths = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert torch.equal(holes[:, 0].sum((1, 2)), heights * widths)
    assert (int(heights.min()), int(heights.max())) >= (4, 8)
    assert int(heights.max()) <= 8
    assert int(widths.max()) == 12
    assert int(widths.min()) >= 5


def test_colour_changes_light_and_contrast_but_no_places() -> None:
    """An image is only shifted and stretched, where it has no colours to change."""
    torch.manual_seed(0)
    images = torch.rand(50, 1, 8, 8) * 2 - 1
    for before, after in zip(images, augmented(images, ["colour"]), strict=True):
        both = torch.stack([before.flatten(), after.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) == pytest.approx(1, abs=1e-4)
        assert 0.5 <= float(after.std() / before.std()) <= 1.5
        assert abs(float(after.mean() - before.mean())) <= 0.5


@pytest.mark.parametrize("shape", [(2, 3), (model.EVEN + 1,)], ids=["evenly", "of many dimensions"])
def test_noise_is_gaussian_and_in_opposite_pairs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    noise = model.spread_evenly(20_001 if len(shape) > 1 else 301, shape)
    assert noise.shape[1:] == shape
    assert torch.equal(noise[0:-1:2], -noise[1::2])
    assert float(noise[:-1].mean()) == pytest.approx(0, abs=1e-6)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=0.1)
    if len(shape) > 1:
        assert float(torch.corrcoef(noise[::2].flatten(1).T).fill_diagonal_(0).abs().max()) < 0.05


@pytest.mark.parametrize("first", [8, 9])
def test_pictures_show_one_of_a_pair_and_both_only_where_there_are_too_few(first: int) -> None:
    labels = np.repeat([0, 1, 2], [first, 20, 3])
    for number in (0, 1):
        pairs = model.to_look_at(labels, number, 4) // 2
        assert len(set(pairs.tolist())) == 4
    assert sorted(model.to_look_at(labels, 2, 4).tolist()) == [first + 20, first + 21, first + 22]


def test_one_row_of_noise_is_gaussian_and_many_are_spread_more_evenly_than_by_chance() -> None:
    rows, squares = [], []
    for seed in range(400):
        torch.manual_seed(seed)
        noise = model.spread_evenly(64, (4,))
        rows.append(noise[6])
        squares.append(noise.square().mean())
    assert kstest(torch.stack(rows).flatten().numpy(), "norm").pvalue > 0.01
    by_chance = 2 / (32 * 4)  # variance of the mean square of 32 independent rows; the opposite ones add nothing
    assert float(torch.stack(squares).var()) < 0.2 * by_chance


def sampler(which: str, folder: Path, sampling: Knobs | None = None) -> model.Sampler:
    """An untrained model whose images depend strongly on the noise."""
    family, architecture = FAMILIES[which]
    torch.manual_seed(0)
    network = family.networks(architecture, (1, 8, 8), 3)[family.sampler]
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    knobs = family.model_dump(mode="json")
    model.save_model(folder, Card("r", "d", which, architecture, knobs, (1, 8, 8), list("abc"), [1] * 3, "f"), network)
    return model.Sampler(folder, sampling=sampling)


def sampling(which: str, **knobs: Any) -> Knobs:
    return FAMILIES[which][0].Sampling(**knobs)


@pytest.mark.parametrize("which", FAMILIES)
def test_the_same_seed_gives_the_same_images(which: str, tmp_path: Path) -> None:
    drawing, labels = sampler(which, tmp_path), np.arange(7) % 3
    images = drawing.sample(labels, seed=5)
    torch.randn(3)
    assert np.array_equal(images, drawing.sample(labels, seed=5))
    assert not np.array_equal(images, drawing.sample(labels, seed=6))


@pytest.mark.parametrize("which", FAMILIES)
def test_the_way_between_two_images_begins_and_ends_with_them(which: str, tmp_path: Path) -> None:
    drawing, labels = sampler(which, tmp_path), np.array([0, 2, 1])
    way = drawing.interpolate(labels, seed=1, frames=9)
    assert way.shape == (3, 9, 1, 8, 8)
    ends = torch.randn(2, 3, *drawing.family.noise_shape((1, 8, 8)), generator=torch.Generator().manual_seed(1))
    for place, noise in zip((0, -1), ends, strict=True):
        images = model.made(drawing.family, drawing.network, noise, labels, drawing.sampling)
        assert np.abs(way[:, place].astype(int) - images).max() <= 1
    pixels = way.astype(float)
    steps = np.abs(np.diff(pixels, axis=1)).mean((2, 3, 4))
    assert (steps.max(1) < np.abs(pixels[:, 0] - pixels[:, -1]).mean((1, 2, 3))).all()


def test_the_way_with_churn_depends_on_the_seed_alone(tmp_path: Path) -> None:
    drawing = sampler("diffusion", tmp_path, sampling("diffusion", evaluations=5, churn=0.5))
    first = drawing.interpolate(np.array([0, 1]), seed=1, frames=3)
    torch.randn(7)
    assert np.array_equal(first, drawing.interpolate(np.array([0, 1]), seed=1, frames=3))
