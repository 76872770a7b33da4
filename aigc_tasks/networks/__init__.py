"""The nn.Modules that families are built from, one file per architecture.

A recipe names one of these files (`network: resnet`). A file offers one or more of these roles, under these names and
with these signatures, so that a family works with every file that offers what it needs:

- ``Generator(shape, classes, latent, width, attention)``: noise B×latent and labels B to images B×C×H×W in [-1, 1].
- ``Discriminator(shape, classes, width, attention)``: images and labels to one logit each, B.
- ``Encoder(shape, classes, outputs, width)``: images and labels to B×outputs.
- ``Decoder(shape, classes, latent, width)``: noise and labels to B×C×H×W, unbounded.
- ``Denoiser(shape, classes, width, patch, dropout)``: noisy images, noise levels B in [0, 1] and labels to B×C×H×W,
  unbounded.

``classes`` is 0 for a network that ignores labels. ``layers`` holds what several files are made of.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

ROLES = {"Generator", "Discriminator", "Encoder", "Decoder", "Denoiser"}


def names(roles: tuple[str, ...] = ()) -> list[str]:
    """The architectures that offer all these roles; found without importing torch."""
    found = {module.name: offered(module.name) for module in pkgutil.iter_modules(__path__)}
    return [name for name, offers in found.items() if offers and offers.issuperset(roles)]


def offered(name: str) -> set[str]:
    """The roles that an architecture's file defines.

    Not by ``ast``: in a flow, beside Prefect's threads, CPython 3.11 was seen to lose count within it (SystemError).
    """
    return ROLES & set(re.findall(r"^class (\w+)", Path(__path__[0], f"{name}.py").read_text(), re.MULTILINE))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
