"""A trained model on disk: ``model.safetensors`` (the EMA weights) and ``model.json`` (what is needed to use it)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn

from aigc_tasks import families
from aigc_tasks.card import Card, read_card
from aigc_tasks.modalities import image

CHUNK = 256  # images sampled at once; part of the result, so a constant


def save_model(folder: Path, card: Card, network: nn.Module) -> None:
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(weights))
    (folder / "model.json").write_text(json.dumps(asdict(card), indent=2) + "\n")


class Sampler:
    """A loaded model, ready to sample."""

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        self.card = read_card(folder)
        self.device = device or torch.device("cpu")
        self.family = families.load(self.card.family).model_validate(self.card.model)
        networks = self.family.networks(self.card.network, self.card.shape, len(self.card.classes))
        self.network = networks[self.family.sampler]
        self.network.load_state_dict(load_file(folder / "model.safetensors"))
        self.network.to(self.device).eval()

    def sample(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """uint8 N×C×H×W of the asked class numbers; the same seed and labels give the same images."""
        return sample(self.family, self.network, labels, seed)


@torch.no_grad()
def sample(family: families.Family, network: nn.Module, labels: np.ndarray, seed: int) -> np.ndarray:
    """uint8 N×C×H×W of the asked class numbers from a network of the family; leaves torch's random state as it was."""
    device = next(network.parameters()).device
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    chunks = [family.sample(network, torch.from_numpy(chunk).to(device)).cpu().numpy() for chunk in chunked(labels)]
    torch.set_rng_state(state)
    return image.decode(np.concatenate(chunks))


def chunked(labels: np.ndarray) -> list[np.ndarray]:
    return [labels[start : start + CHUNK] for start in range(0, len(labels), CHUNK)]
