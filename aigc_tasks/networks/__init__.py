"""The nn.Modules that families are built from, one file per architecture.

A recipe names one of these files (`network: resnet`). Every file offers the two roles under the same names and
signatures, so that a family works with each of them:

- ``Generator(shape, classes, latent, width)``: ``forward(z, labels)`` maps noise B×latent to images B×C×H×W in [-1, 1].
- ``Discriminator(shape, classes, width)``: ``forward(images, labels)`` maps images to one logit each, B.

``classes`` is 0 for a network that ignores labels.
"""

from __future__ import annotations

import pkgutil


def names() -> list[str]:
    """The architectures there are: the files of this package."""
    return [module.name for module in pkgutil.iter_modules(__path__)]
