"""Save and load all that training needs to go on: one safetensors file, replaced atomically.

Keys are ``network/NAME/…``, ``ema/…`` and ``optimiser/NAME/INDEX/…``; one metadata entry holds the rest as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from aigc_tasks import layout

STATE = "state"  # the only metadata key: with several, safetensors writes them in another order every time


def write(
    path: Path, networks: dict[str, nn.Module], ema: nn.Module, optimisers: dict[str, Optimizer], state: dict[str, Any]
) -> None:
    """Replace the checkpoint at ``path``; ``state`` must be JSON's."""
    tensors: dict[str, Tensor] = {f"ema/{key}": value for key, value in ema.state_dict().items()}
    for name, network in networks.items():
        tensors |= {f"network/{name}/{key}": value for key, value in network.state_dict().items()}
    for name, optimiser in optimisers.items():
        for index, slots in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{name}/{index}/{key}": value for key, value in slots.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    layout.replace(path, save(tensors, metadata={STATE: json.dumps(state)}))


def read(
    path: Path, networks: dict[str, nn.Module], ema: nn.Module, optimisers: dict[str, Optimizer]
) -> dict[str, Any] | None:
    """Put the checkpoint's tensors in place and return its state; None where there is none or it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()[STATE])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        print(f"{path}: cannot be read ({error}); training starts from the beginning", flush=True)
        return None

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    ema.load_state_dict(under("ema/"))
    for name, network in networks.items():
        network.load_state_dict(under(f"network/{name}/"))
    for name, optimiser in optimisers.items():
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in under(f"optimiser/{name}/").items():
            index, slot = key.split("/", 1)
            slots.setdefault(int(index), {})[slot] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
    return state
