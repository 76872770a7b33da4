"""GAN objectives and networks against values known in closed form."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor, nn

from aigc_tasks.families.gan import Gan, gradient_penalties
from aigc_tasks.networks import mlp, resnet


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
        assert found["discriminator"][0] == pytest.approx(log(2))
        assert found["generator"][0] == pytest.approx(log(2))


def test_the_relativistic_loss_is_that_of_the_pair() -> None:
    """D(real) - D(fake) = Σw·(1 - (-1)) = 2 for w = ¼: softplus(-2) for the one, softplus(2) for the other."""
    found = losses(Gan(penalty=0.0), [0.25] * 4, 1.0, -1.0)
    assert found["discriminator"][0] == pytest.approx(log(1 + torch.tensor(-2.0).exp().item()), rel=1e-5)
    assert found["generator"][0] == pytest.approx(log(1 + torch.tensor(2.0).exp().item()), rel=1e-5)
    assert found["discriminator"][1]["margin"] == pytest.approx(2.0)


def test_penalties_are_the_squared_slope() -> None:
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    both = torch.randn(6, 1, 2, 2, requires_grad=True)
    r1, r2 = gradient_penalties(Plane(weights)(both, torch.zeros(6)), both)
    assert float(r1) == float(r2) == pytest.approx(float(weights.square().sum()))
    found = losses(Gan(penalty=0.3), [0.25] * 4, 1.0, -1.0)["discriminator"]
    bare = losses(Gan(penalty=0.0), [0.25] * 4, 1.0, -1.0)["discriminator"]
    assert found[0] - bare[0] == pytest.approx(0.3 / 2 * (0.25 + 0.25), rel=1e-5)


def test_the_textbook_gan_has_the_textbooks_layers() -> None:
    networks = Gan(objective="bce", latent=100, width=256).networks("mlp", (1, 28, 28), 0)

    def sizes(network: nn.Module) -> list[tuple[int, int]]:
        return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]

    assert sizes(networks["generator"]) == [(100, 256), (256, 512), (512, 1024), (1024, 784)]
    assert sizes(networks["discriminator"]) == [(784, 512), (512, 256), (256, 1)]
    assert {layer.negative_slope for layer in networks["generator"].modules() if isinstance(layer, nn.LeakyReLU)} == {
        0.2
    }


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 5, 7), (1, 12, 20)])
@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("architecture", [mlp, resnet])
def test_networks_take_any_shape(architecture: object, shape: tuple[int, int, int], classes: int) -> None:
    generator = architecture.Generator(shape, classes, latent=6, width=4)  # type: ignore[attr-defined]
    discriminator = architecture.Discriminator(shape, classes, width=4)  # type: ignore[attr-defined]
    labels = torch.arange(3) % max(classes, 1)
    images = generator(torch.randn(3, 6), labels)
    assert images.shape == (3, *shape)
    assert images.abs().max() <= 1
    assert discriminator(images, labels).shape == (3,)


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
