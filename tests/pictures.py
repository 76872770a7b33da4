"""Pictures: noise and photographs, of which each seed gives another, odd ones made by hand, and a source that grows."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

FIRST, GROWN = 120, 170  # pictures
SIZE = (12, 10)  # width and height: not a square, so that a confusion of the two is seen


def noise(seed: int, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture that no other seed gives."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(number: int) -> bytes:
    """A small one, encoded; another one for each number."""
    return encoded(noise(number, size=(9, 8)))


def photograph(seed: int, side: int = 48) -> Image.Image:
    """A picture that is smooth as photographs are, so that it is still the same one when it is compressed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def chunked(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def handmade(width: int, height: int, depth: int, colour: int, pixels: bytes, *others: bytes) -> bytes:
    """A PNG of these uncompressed lines, with other chunks before them."""
    header = chunked(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", header, *others, chunked(b"IDAT", zlib.compress(pixels, 9)), chunked(b"IEND", b"")]
    )


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that says it is very large."""
    return handmade(width, height, 8, 2, bytes(9999))


def swapped_space() -> bytes:
    """A profile of a colour space whose red is sRGB's blue."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {
        bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12)
    }
    red, blue = (slice(places[name] + 4, places[name] + 12) for name in (b"rXYZ", b"bXYZ"))
    profile[red], profile[blue] = profile[blue], profile[red]
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "BRGs".encode("utf-16-be"))


def draw(place: Path, numbers: range, invert: bool = False) -> None:
    """Some of scikit-learn's digits as pictures in class folders."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = (found.images * 15.9).astype(np.uint8)
    for number in numbers:
        path = place / str(found.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels[number] if invert else pixels[number]).save(path)


def learn_from_a_folder(params: Any) -> None:
    """The recipe draws its data from ``pictures``, beside ``params.yaml``."""
    params["datasets"]["digits"]["acquire"] = {"kind": "folder", "source": "pictures"}
    params["datasets"]["digits"]["clean"] = {"checks": {"near_duplicate": "off"}}
    params["recipes"]["digits-gan"]["postprocess"] = {"count": 60}
