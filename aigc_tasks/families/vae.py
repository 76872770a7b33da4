"""Variational autoencoders (Kingma & Welling 2014, arXiv:1312.6114), class-conditional where there are labels.

The encoder gives a Gaussian of latent vectors, the decoder a logistic distribution of each pixel, discretised to the
256 levels that images have (Salimans et al. 2017, arXiv:1701.05517), so that the ELBO is a bound on a true likelihood
and can be said in bits per dimension. The prior of the latent vectors is a standard Gaussian or is learned with the
rest: a flow (as in Chen et al. 2017, arXiv:1611.02731, with the couplings of RealNVP), without which samples come from
places that the decoder has never seen. β weighs the prior (Higgins et al. 2017, openreview Sy2fzU9gl); free bits keep
the latent vector in use (Kingma et al. 2016, arXiv:1606.04934). All dimensions are one of their groups here, as what a
vector costs under a flow is no sum over its dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log, pi
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from aigc_tasks import knobs, networks
from aigc_tasks.families import Family, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

LEVEL = 1 / 255  # half the distance between two of the 256 levels in [-1, 1]
COUPLINGS = 8  # of the learned prior
SHARPEST, BLURRIEST = -7.0, 2.0  # logarithmic scale of a pixel's distribution


class Sampling(knobs.Knobs):
    temperature: float = Field(1.0, ge=0, description="of the prior; lower: more typical images, less variety")


class Vae(Family):
    sampler: ClassVar[str] = "autoencoder"
    roles: ClassVar[tuple[str, ...]] = ("Encoder", "Decoder")
    training: ClassVar[dict[str, Any]] = {"beta1": 0.9, "beta2": 0.999, "batch": 64, "clip": 200.0}
    search: ClassVar[dict[str, tuple[float, float]]] = {
        "train.learning_rate": (3e-4, 5e-3),
        "model.beta": (0.1, 2.0),
    }
    Sampling: ClassVar[type[knobs.Knobs]] = Sampling

    latent: int = Field(32, gt=1, description="dimensions of the latent vector")
    width: int = Field(32, gt=0, description="channels at full resolution, or units of the narrowest layer of an mlp")
    prior: Literal["flow", "gaussian"] = Field("flow", description="learned, or fixed")
    beta: float = Field(1.0, gt=0, description="weight of the divergence from the prior; 1 is the ELBO")
    free_bits: float = Field(
        0.0, ge=0, description="nats times `latent` that the whole divergence may cost for nothing, in a batch's mean"
    )
    conditional: bool = Field(True, description="use the labels, where the data set has them")

    def networks(self, architecture: str, shape: tuple[int, int, int], classes: int) -> dict[str, nn.Module]:
        from torch.nn import ModuleDict

        from aigc_tasks.networks.layers import Flow

        module = networks.load(architecture)
        parts = {
            "encoder": module.Encoder(shape, classes, 2 * self.latent, self.width),
            "decoder": module.Decoder((2 * shape[0], *shape[1:]), classes, self.latent, self.width),
            "prior": Flow(self.latent, classes, 4 * self.latent, COUPLINGS if self.prior == "flow" else 0),
        }
        return {"autoencoder": ModuleDict(parts)}

    def objectives(self, networks: dict[str, nn.Module], images: Tensor, labels: Tensor) -> Iterator[Objective]:
        reconstruction, divergence = self.elbo(networks["autoencoder"], images, labels)
        dimensions = images[0].numel()
        free = self.free_bits * self.latent
        loss = reconstruction.mean() + self.beta * divergence.mean().clamp_min(free)
        bits = (reconstruction + divergence).detach().mean() / (dimensions * log(2))
        curves = {
            "bits_per_dimension": bits,
            "reconstruction": reconstruction.detach().mean(),
            "divergence": divergence.detach().mean(),
        }
        yield Objective("autoencoder", loss / dimensions, curves)

    def elbo(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """-log p(x|z) and log q(z|x) - log p(z) in nats, B each, for one z drawn from q: their sum is -ELBO."""
        import torch

        mean, log_scale = network["encoder"](images, labels).float().chunk(2, 1)  # type: ignore[index]
        noise = torch.randn_like(mean)
        z = mean + log_scale.exp() * noise
        source, stretch = network["prior"](z, labels)  # type: ignore[index]
        log_q = normal(noise) - log_scale.sum(1)
        log_p = normal(source) + stretch
        centre, spread = self.pixels(network, z, labels)
        return -discretised_logistic(images, centre, spread).flatten(1).sum(1), log_q - log_p

    def pixels(self, network: nn.Module, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and logarithmic scale of every pixel's distribution, B×C×H×W each."""
        centre, spread = network["decoder"](z, labels).float().chunk(2, 1)  # type: ignore[index]
        return centre, (spread - 2).clamp(SHARPEST, BLURRIEST)

    def noise_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        return (self.latent,)

    def sample(self, network: nn.Module, noise: Tensor, labels: Tensor, sampling: Any) -> Tensor:
        z = network["prior"].inverse(sampling.temperature * noise, labels)  # type: ignore[index]
        return self.pixels(network, z, labels)[0]

    def reconstruct(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        z = network["encoder"](images, labels).chunk(2, 1)[0]  # type: ignore[index]
        return self.pixels(network, z, labels)[0]

    def bits(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        reconstruction, divergence = self.elbo(network, images, labels)
        return (reconstruction + divergence) / (images[0].numel() * log(2))


def normal(x: Tensor) -> Tensor:
    """Logarithm of the standard Gaussian density of vectors B×D: B."""
    return -0.5 * (x.square() + log(2 * pi)).sum(1)


def discretised_logistic(images: Tensor, centre: Tensor, log_scale: Tensor) -> Tensor:
    """Logarithm of the probability of each pixel's level: the logistic's mass between half a level below and above.

    The lowest level holds all mass below it, the highest all above: the 256 probabilities sum to 1.
    """
    import torch
    from torch.nn.functional import logsigmoid, softplus

    inverse = (-log_scale).exp()
    above = (images + LEVEL - centre) * inverse
    below = (images - LEVEL - centre) * inverse
    # log(σ(a) - σ(b)) = log(1 - exp(b - a)) + a's and b's tails: exact however far out, where σ rounds to 0 or 1
    between = torch.log(-torch.expm1(below - above)) - softplus(-above) - softplus(below)
    between = torch.where(images < -1 + LEVEL, logsigmoid(above), between)
    return torch.where(images > 1 - LEVEL, logsigmoid(-below), between)
