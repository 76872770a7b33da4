"""Variational autoencoders: a true likelihood, an invertible prior, and divergences known in closed form."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aigc_tasks import model
from aigc_tasks.card import Card
from aigc_tasks.families.vae import BLURRIEST, LEVEL, SHARPEST, Vae, discretised_logistic
from aigc_tasks.modalities import image
from aigc_tasks.networks.layers import Flow

LEVELS = image.encode(torch.arange(256.0))
SHAPE = (1, 8, 8)
NOBODY = torch.zeros(1, dtype=torch.int64)


class Always(nn.Module):
    """Says the same whatever it is asked: a posterior that has not looked, or a decoder that is blind."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, given: Tensor, labels: Tensor) -> Tensor:
        return self.answer.expand(len(given), *self.answer.shape)


def blind(mean: Tensor, log_scale: Tensor, spread: float, shape: tuple[int, int, int] = SHAPE) -> nn.ModuleDict:
    """A model with a constant posterior, a Gaussian prior, and mid-grey pixels of one logarithmic scale."""
    pixels = torch.cat([torch.zeros(shape), torch.full(shape, spread + 2)])
    parts = {"encoder": Always(torch.cat([mean, log_scale])), "decoder": Always(pixels)}
    return nn.ModuleDict({**parts, "prior": Flow(len(mean), 0, 8, 0)})


def bent(size: int, classes: int, couplings: int) -> Flow:
    """A flow that has moved away from the identity it starts as, in double precision."""
    torch.manual_seed(1)
    flow = Flow(size, classes, 16, couplings).double()
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.4)
    return flow


@pytest.mark.parametrize("centre", [-50.0, -1.0, -0.3, 0.0, 0.9983, 1.0, 30.0])
@pytest.mark.parametrize("log_scale", [SHARPEST, -5.0, -2.0, 0.0, BLURRIEST])
def test_the_probabilities_of_all_levels_sum_to_one(centre: float, log_scale: float) -> None:
    found = discretised_logistic(LEVELS, torch.full((256,), centre), torch.full((256,), log_scale))
    assert found.isfinite().all()
    assert float(found.double().exp().sum()) == pytest.approx(1, abs=1e-4)


def test_a_probability_is_the_difference_of_two_sigmoids() -> None:
    """Where that difference is accurate in double precision: within twenty scales of the centre."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(5000, generator=generator).double() * 2 - 1
    log_scale = torch.rand(5000, generator=generator).double() * 6 - 4
    levels = LEVELS.double()[torch.randint(1, 255, (5000,), generator=generator)]
    near = ((levels - centre).abs() * (-log_scale).exp()) < 20
    above, below = ((levels + half - centre) * (-log_scale).exp() for half in (LEVEL, -LEVEL))
    found = discretised_logistic(levels, centre, log_scale)
    assert near.sum() > 4000
    torch.testing.assert_close(found[near], (above.sigmoid() - below.sigmoid()).log()[near], rtol=1e-6, atol=1e-6)


def test_gradients_are_finite_however_far_out() -> None:
    for centre in (-1e4, -3.0, 0.0, 3.0, 1e4):
        for log_scale in (SHARPEST, BLURRIEST):
            told = torch.full((256,), centre, requires_grad=True), torch.full((256,), log_scale, requires_grad=True)
            found = discretised_logistic(LEVELS, *told)
            slopes = torch.autograd.grad(found.sum(), told)
            assert found.isfinite().all()
            assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize(("size", "classes"), [(2, 0), (5, 0), (6, 3)])
def test_a_flow_goes_back_the_way_it_came(size: int, classes: int) -> None:
    flow = bent(size, classes, 8)
    z, labels = torch.randn(20, size).double(), torch.arange(20) % max(classes, 1)
    noise, _ = flow(z, labels)
    assert (noise - z).abs().max() > 0.1
    torch.testing.assert_close(flow.inverse(noise, labels), z, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("size", "classes"), [(2, 0), (5, 0), (6, 3)])
def test_a_flow_knows_how_it_stretches(size: int, classes: int) -> None:
    flow = bent(size, classes, 4)
    for number in range(3):
        z, label = torch.randn(size).double(), torch.tensor([number % max(classes, 1)])
        jacobian = torch.autograd.functional.jacobian(lambda z, label=label: flow(z[None], label)[0][0], z)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(flow(z[None], label)[1][0].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_flow_starts_as_the_identity() -> None:
    flow, z = Flow(6, 3, 16, 8), torch.randn(4, 6)
    noise, stretch = flow(z, torch.tensor([0, 1, 2, 0]))
    assert torch.equal(noise, z)
    assert torch.equal(stretch, torch.zeros(4))


@pytest.mark.parametrize("prior", ["flow", "gaussian"])
def test_nothing_is_paid_for_a_posterior_that_is_the_prior(prior: str) -> None:
    """A new encoder says N(0, 1) of every image, and a new flow is the identity."""
    network = Vae(latent=4, width=4, prior=prior).networks("resnet", SHAPE, 10)["autoencoder"]  # type: ignore[arg-type]
    images = torch.rand(16, *SHAPE) * 2 - 1
    _, divergence = Vae(latent=4).elbo(network, images, torch.arange(16) % 10)
    torch.testing.assert_close(divergence, torch.zeros(16), rtol=0, atol=1e-5)


def test_the_divergence_of_gaussians_is_the_closed_form() -> None:
    """KL(N(μ, σ²) | N(0, 1)) = Σ (μ² + σ² - 1 - log σ²) / 2, here met by the mean of 20,000 draws."""
    mean, scale = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.5, 1.5, 0.2])
    network = blind(mean, scale.log(), 0.0, (1, 1, 1))
    torch.manual_seed(0)
    with torch.no_grad():
        _, divergence = Vae(latent=3, prior="gaussian").elbo(network, torch.zeros(20_000, 1, 1, 1), NOBODY)
    expected = float((mean**2 + scale**2 - 1 - (scale**2).log()).sum() / 2)
    assert abs(float(divergence.mean()) - expected) < 4 * float(divergence.std()) / 20_000**0.5


def test_a_blind_model_needs_about_eight_bits_for_a_level() -> None:
    """A logistic of scale ½ has density ½ at its centre: 1/255 a level there. Over all levels none needs under 8."""
    network = blind(torch.zeros(2), torch.zeros(2), log(0.5), (1, 16, 16))
    every = LEVELS.reshape(1, 1, 16, 16)
    bits = float(Vae(latent=2).bits(network, every, NOBODY).detach())
    assert 8 <= bits < 8.6
    middle = Vae(latent=2).bits(network, torch.full_like(every, float(LEVELS[127])), NOBODY)
    assert float(middle.detach()) == pytest.approx(log(255) / log(2), abs=1e-3)


def test_bits_are_a_bound_that_a_needless_posterior_loosens() -> None:
    """What a blind decoder needs is known; a posterior that says something for nothing costs its divergence on top."""
    images = (torch.rand(200, *SHAPE) * 2 - 1).mul(127.5).round() / 127.5
    told, silent = (blind(torch.full((3,), mean), torch.zeros(3), -1.0) for mean in (2.0, 0.0))
    family = Vae(latent=3)
    torch.manual_seed(0)
    with torch.no_grad():
        found, least = (family.bits(network, images, NOBODY).mean() for network in (told, silent))
    assert float(found - least) == pytest.approx(3 * 2.0**2 / 2 / (64 * log(2)), rel=0.1)


@pytest.mark.parametrize(("beta", "free_bits"), [(1.0, 0.0), (0.25, 0.0), (2.0, 0.4), (1.0, 5.0)])
def test_the_loss_is_the_weighed_sum_with_a_free_part(beta: float, free_bits: float) -> None:
    network = blind(torch.full((3,), 0.8), torch.zeros(3), 0.0)
    family = Vae(latent=3, beta=beta, free_bits=free_bits)
    (objective,) = family.objectives({"autoencoder": network}, torch.rand(50, *SHAPE), NOBODY)
    curves = objective.curves
    weighed = beta * max(float(curves["divergence"]), 3 * free_bits)
    assert objective.loss.item() * 64 == pytest.approx(float(curves["reconstruction"]) + weighed, rel=1e-5)
    both = float(curves["reconstruction"] + curves["divergence"])
    assert float(curves["bits_per_dimension"]) == pytest.approx(both / 64 / log(2), rel=1e-5)
    objective.loss.backward()
    moved = network["encoder"].answer.grad.abs().max() > 0  # type: ignore[union-attr, operator]
    assert bool(moved) == (
        float(curves["divergence"]) > 3 * free_bits
    )  # within its free bits, a posterior that nobody reads is left alone


def test_free_bits_are_counted_over_all_dimensions_together() -> None:
    """One dimension may spend what the others leave: 8 nats in the first, none in the rest, and 4 × 3 are free."""
    network = blind(torch.tensor([4.0, 0.0, 0.0]), torch.zeros(3), 0.0)
    given = {"autoencoder": network}, torch.rand(50, *SHAPE), NOBODY
    (free,), (paid,) = (Vae(latent=3, free_bits=bits).objectives(*given) for bits in (4.0, 2.0))
    assert free.loss.item() * 64 == pytest.approx(float(free.curves["reconstruction"]) + 12, rel=1e-5)
    whole = float(paid.curves["reconstruction"] + paid.curves["divergence"])
    assert paid.loss.item() * 64 == pytest.approx(whole, rel=1e-5)


def test_temperature_nought_leaves_the_most_typical_image() -> None:
    torch.manual_seed(0)
    family = Vae(latent=4, width=4)
    network = family.networks("resnet", SHAPE, 0)["autoencoder"]
    noise, labels = torch.randn(3, 4), torch.zeros(3, dtype=torch.int64)
    cold = family.sample(network, noise, labels, family.Sampling(temperature=0.0))  # type: ignore[call-arg]
    warm = family.sample(network, noise, labels, family.Sampling())
    torch.testing.assert_close(cold[0], cold[1])
    assert (warm[0] - warm[1]).abs().max() > 1e-4


@pytest.mark.parametrize("architecture", ["mlp", "resnet"])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_reconstruction_is_an_image_and_always_the_same(architecture: str, classes: int, tmp_path: Path) -> None:
    family = Vae(latent=4, width=4)
    network = family.networks(architecture, (3, 12, 20), classes)["autoencoder"]
    names = [str(number) for number in range(classes)]
    card = Card("r", "d", "vae", architecture, family.model_dump(), (3, 12, 20), names, [1] * max(classes, 1), "f")
    model.save_model(tmp_path, card, network)
    sampler = model.Sampler(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 12, 20), dtype=np.uint8)
    labels = np.arange(5) % 3
    kept, again = (sampler.reconstruct(images, labels) for _ in range(2))
    assert kept is not None
    assert (kept.dtype, kept.shape) == (np.uint8, images.shape)
    assert np.array_equal(kept, again)  # type: ignore[arg-type]
    bits, same = (sampler.bits(images, labels, seed=1) for _ in range(2))
    assert bits is not None
    assert bits.shape == (5,)
    assert np.array_equal(bits, same)  # type: ignore[arg-type]
