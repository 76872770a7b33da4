"""A trained model on disk: ``model.safetensors`` (the EMA weights) and ``model.json`` (what is needed to use it)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from aigc_tasks import families
from aigc_tasks.card import Card, read_card
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import Knobs
from aigc_tasks.layout import PARAMS
from aigc_tasks.modalities import image
from aigc_tasks.progress import progress

CHUNK = 256  # images sampled at once; part of the result, so a constant
EVEN = 1024  # dimensions; of more, a thousand points cannot be spread more evenly than by chance
NOTHING = (
    f"pixels that are no numbers were drawn; set the knobs of sampling nearer to their defaults ({PARAMS}: "
    "postprocess.sampling, or --option), or train with a lower `learning_rate`"
)
ROWS = 50  # of a picture: of 300 classes it would be higher than anybody scrolls, and dear to draw in training
TINY = 1e-9  # a Sobol sequence may begin at 0, which is no quantile


def save_model(folder: Path, card: Card, network: nn.Module) -> None:
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(weights))
    (folder / "model.json").write_text(json.dumps(asdict(card), indent=2) + "\n")


class Sampler:
    """A loaded model, ready to sample with the family's ``Sampling`` knobs, by default their defaults."""

    def __init__(self, folder: Path, device: torch.device | None = None, sampling: Knobs | None = None) -> None:
        self.card = read_card(folder)
        self.device = device or torch.device("cpu")
        told = {"conditional": bool(self.card.classes)}  # asked for it may have been; without labels it is not
        self.family = families.load(self.card.family).model_validate(self.card.model | told)
        where = f"{PARAMS}: recipes.{self.card.recipe}"
        self.sampling = self.family.checked(sampling or self.family.Sampling(), where)
        networks = self.family.networks(self.card.network, self.card.shape, len(self.card.classes))
        self.network = networks[self.family.sampler]
        self.network.load_state_dict(load_file(folder / "model.safetensors"))
        self.network.to(self.device).eval()

    def sample(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """uint8 N×C×H×W of the asked class numbers; the same seed and labels give the same images."""
        return sample(self.family, self.network, self.card.shape, labels, seed, self.sampling, self.card.levels)

    def interpolate(self, labels: np.ndarray, seed: int, frames: int) -> np.ndarray:
        """uint8 R×F×C×H×W: for each of R class numbers the way from one image to another in F frames.

        On the sphere, where Gaussian noise lies (White 2016, arXiv:1609.04468): halfway on the straight line it would
        be too small to be noise that the model knows.
        """
        torch.manual_seed(seed)
        first, second = torch.randn(2, len(labels), *self.family.noise_shape(self.card.shape))
        turn = torch.linspace(0, torch.pi / 2, frames).reshape(-1, *[1] * first.dim())
        noise = (turn.cos() * first + turn.sin() * second).transpose(0, 1).flatten(0, 1)
        images = made(self.family, self.network, noise, np.repeat(labels, frames), self.sampling, self.card.levels)
        return images.reshape(len(labels), frames, *self.card.shape)

    @torch.no_grad()
    def reconstruct(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """What the model keeps of uint8 N×C×H×W, None if its family looks at no images."""
        kept = self.family.reconstruct(self.network, *self.given(images, labels))
        return None if kept is None else image.decode(kept.cpu().numpy(), self.card.levels)

    @torch.no_grad()
    def bits(self, images: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray | None:
        """Bits per dimension, N, of uint8 N×C×H×W; None if the family cannot tell."""
        torch.manual_seed(seed)
        found = []
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            bits = self.family.bits(self.network, *self.given(images[part], labels[part]))
            if bits is None:
                return None
            found.append(bits.cpu().numpy())
        return np.concatenate(found)

    def given(self, images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels as the network takes them."""
        labels = labels if self.card.classes else np.zeros_like(labels)
        pixels = image.encode(torch.from_numpy(np.array(images)).float())
        return pixels.to(self.device), torch.from_numpy(labels).to(self.device)


def sample(
    family: families.Family,
    network: nn.Module,
    shape: tuple[int, int, int],
    labels: np.ndarray,
    seed: int,
    sampling: Knobs | None = None,
    levels: Sequence[int] = (),
) -> np.ndarray:
    """uint8 N×C×H×W of the asked class numbers from a network of the family; leaves torch's random state as it was.

    ``levels`` are those that pixels have, where they are few.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    noise = spread_evenly(len(labels), family.noise_shape(shape))
    images = made(family, network, noise, labels, sampling or family.Sampling(), levels)
    torch.set_rng_state(state)
    return images


def spread_evenly(count: int, shape: tuple[int, ...]) -> Tensor:
    """Gaussian noise ``count``×``shape``, each row as Gaussian as any, together covering the space more evenly.

    What is measured of a thousand samples then depends less on the seed. Every second row is the negative of the one
    before (antithetic variates, Hammersley & Morton 1956): the means of a pair's images err in opposite ways. Up to
    ``EVEN`` dimensions the first ones of the pairs are a scrambled Sobol sequence (Owen 1998, ACM TOMACS 8).
    """
    pairs, size = -(-count // 2), prod(shape)
    if size <= EVEN:
        sobol = SobolEngine(size, scramble=True, seed=int(torch.randint(2**31, ())))
        uniform = sobol.draw(pairs, dtype=torch.float64).clamp(TINY, 1 - TINY)
        half = torch.special.ndtri(uniform).float().reshape(pairs, *shape)
    else:
        half = torch.randn(pairs, *shape)
    return torch.stack([half, -half], 1).flatten(0, 1)[:count]


def to_look_at(labels: np.ndarray, number: int, count: int) -> np.ndarray:
    """Up to ``count`` rows of class ``number``: of the pairs that ``spread_evenly`` draws first one of each.

    Opposite noise gives pictures that often look like each other's negative, and less varied than they are.
    """
    rows = np.flatnonzero(labels == number)
    return np.concatenate([rows[::2], rows[1::2]])[:count]


def worth_a_row(classes: np.ndarray) -> np.ndarray:
    """The classes that a picture has a row of: all, or ``ROWS`` from the first on, evenly, where there are more."""
    rows = min(len(classes), ROWS)
    return classes[np.arange(rows) * len(classes) // max(rows, 1)]


@torch.no_grad()
def made(
    family: families.Family,
    network: nn.Module,
    noise: Tensor,
    labels: np.ndarray,
    sampling: Knobs,
    levels: Sequence[int] = (),
) -> np.ndarray:
    """uint8 N×C×H×W from Gaussian noise N×…, drawn on the CPU so that every device starts from the same.

    Raises ``UserError`` where a pixel is no number: it would be saved, and measured, as black.
    """
    device = next(network.parameters()).device
    asked = torch.from_numpy(labels)
    chunks = []
    with progress("sample", len(labels)) as update:
        for start in range(0, len(labels), CHUNK):
            part = slice(start, start + CHUNK)
            images = family.sample(network, noise[part].to(device), asked[part].to(device), sampling).cpu()
            if images.isnan().any():
                raise UserError(NOTHING)
            chunks.append(image.decode(images.numpy(), levels))
            update(start + len(chunks[-1]), "")
    return np.concatenate(chunks)
