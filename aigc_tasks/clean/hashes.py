"""What a picture is known by: exactly, and by what it looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 32  # pixels of a side that a perceptual hash is made of


def fingerprint(picture: Image.Image, content: bytes) -> str:
    """SHA-256 of shape and pixels (``content``) as they are trained on, whatever file they came in."""
    digest = hashlib.sha256(repr((len(picture.getbands()), picture.height, picture.width)).encode())
    digest.update(content)
    return digest.hexdigest()


def perceptual(pictures: Sequence[Image.Image]) -> np.ndarray:
    """uint64 N, the 64 bits of imagehash's pHash of each: signs of the lowest frequencies of a 32×32 grey version.

    Pictures are reduced here, by averages: the filter that the library would take needs longer than its hash.
    """
    from imagehash import phash  # takes a while, which data sets without near duplicates need not wait

    small = (picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX) for picture in pictures)
    bits = [np.packbits(phash(one).hash) for one in small]
    return np.array(bits, np.uint8).reshape(-1, 8).view(">u8").astype(np.uint64).ravel()
