"""Pictures of every kind of damage, each with what must become of it."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pictures import bomb, chunked, encoded, noise, photograph, swapped_space
from PIL import Image

KEPT = "kept"
Planted = dict[str, tuple[bytes, str]]  # by path in the source: content, and what must become of it


def flagged(flag: str) -> str:
    return f"{KEPT}: {flag}"


seeds = iter(range(1000, 2000))


def fresh(side: int = 48) -> Image.Image:
    """A photograph that is not there yet."""
    return photograph(next(seeds), side)


def detailed() -> Image.Image:
    """One whose file has some kilobytes, so that there is something to cut."""
    return noise(next(seeds), size=(64, 64))


def flipped(content: bytes, at: float, bit: int = 3) -> bytes:
    """One bit is another, at a share of the length."""
    damaged = bytearray(content)
    damaged[int(at * len(content))] ^= 1 << bit
    return bytes(damaged)


def cut(content: bytes, at: float) -> bytes:
    return content[: int(at * len(content))]


def zero_tailed(content: bytes, share: float = 0.5) -> bytes:
    """The length came, the rest never did."""
    return cut(content, 1 - share).ljust(len(content), b"\0")


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return png[:33] + chunked(kind, data) + png[33:]


class Malice:
    """Leaves a file behind where anyone unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch '{self.mark}'",)


def cut_off() -> Planted:
    jpeg, png, webp, gif, tiff, bmp, avif = (
        encoded(detailed(), form) for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
    )
    nothing = "unreadable (no picture inside)"
    return {
        "empty.jpg": (b"", "unreadable (empty file)"),
        "jpeg in its magic.jpg": (jpeg[:3], nothing),
        "jpeg in its header.jpg": (jpeg[:60], "unreadable"),
        "jpeg in its scan.jpg": (cut(jpeg, 0.5), "truncated"),
        "jpeg near its end.jpg": (cut(jpeg, 0.95), "truncated"),
        "jpeg zero tail.jpg": (zero_tailed(jpeg), "truncated"),
        "progressive.jpg": (cut(encoded(detailed(), "JPEG", progressive=True), 0.4), "truncated"),
        "png in its magic.png": (png[:6], nothing),
        "png behind its header.png": (png[:33], nothing),
        "png in its pixels.png": (cut(png, 0.5), "truncated"),
        "png zero tail.png": (zero_tailed(png), "truncated"),
        "webp in its header.webp": (webp[:20], "unreadable"),
        "webp in its pixels.webp": (cut(webp, 0.5), "unreadable"),
        "webp zero tail.webp": (zero_tailed(webp), "truncated"),
        "gif in its header.gif": (gif[:9], "unreadable"),
        "gif in its pixels.gif": (cut(gif, 0.6), "truncated"),
        "tiff in its pixels.tif": (cut(tiff, 0.5), "truncated"),
        "bmp in its pixels.bmp": (cut(bmp, 0.5), "truncated"),
        "avif in its pixels.avif": (cut(avif, 0.5), "unreadable"),
        "ppm in its pixels.ppm": (cut(encoded(fresh(), "PPM"), 0.5), "truncated"),
        "tga in its pixels.tga": (cut(encoded(fresh(), "TGA"), 0.5), "truncated"),
    }


def flips() -> Planted:
    jpeg, png = encoded(detailed(), "JPEG"), encoded(detailed())
    return {
        "flip in magic.jpg": (flipped(jpeg, 0), "unreadable (no picture inside)"),
        "flip in magic.png": (flipped(png, 0), "unreadable (no picture inside)"),
        "flip in header.png": (flipped(png, 19 / len(png)), "unreadable"),  # the width, which has a checksum
        "flip in pixels.png": (flipped(png, 0.5), "truncated"),
        "flip in scan.jpg": (flipped(jpeg, 0.7), KEPT),  # nothing in a JPEG tells
        "length lied about.png": (png[:33] + b"\x7f\xff\xff\xff" + png[37:], "truncated"),
    }


def other_types(mark: Path) -> Planted:
    text = "unreadable (no picture inside)"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner.png", encoded(fresh()))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    array = io.BytesIO()
    np.save(array, np.array([Malice(mark)], object), allow_pickle=True)
    return {
        "png behind.jpg": (encoded(fresh()), flagged("wrong type (PNG behind .jpg)")),
        "jpeg behind.png": (encoded(fresh(), "JPEG"), flagged("wrong type (JPEG behind .png)")),
        "webp behind.jpeg": (encoded(fresh(), "WEBP"), flagged("wrong type (WEBP behind .jpeg)")),
        "pdf.png": (b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n" * 9, text),
        "html.png": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", text),
        "svg.png": (svg, text),
        "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", text),
        "zip.png": (packed.getvalue(), text),
        "elf.png": (Path(sys.executable).resolve().read_bytes()[:4096], text),
        "pickle.png": (pickle.dumps(Malice(mark)), text),
        "numpy pickle.png": (array.getvalue(), text),
        "pickle.pkl": (pickle.dumps(Malice(mark)), "not a picture"),
        "movie.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(900), "not a picture"),
        "drawing.svg": (svg, "not a picture"),
        "notes.txt": (b"nobody has looked at this", "not a picture"),
        "zeros.png": (bytes(4096), text),
    }


def bombs() -> Planted:
    gif, tiff, bmp = (encoded(fresh(), form) for form in ("GIF", "TIFF", "BMP"))
    wide = gif[:6] + struct.pack("<HH", 60_000, 60_000) + gif[10:]
    huge = struct.pack("<ii", 30_000, 30_000)
    for tag in (struct.pack("<HHI", 256, 4, 1), struct.pack("<HHI", 257, 4, 1)):  # width and height
        assert tiff.count(tag + struct.pack("<I", 48)) == 1
        tiff = tiff.replace(tag + struct.pack("<I", 48), tag + struct.pack("<I", 60_000))
    zeros = zlib.compress(bytes(64 << 20), 9)
    small = encoded(fresh())
    more = struct.pack(">IIBBBBB", 48, 48, 8, 2, 0, 0, 0)
    pixels = small[:8] + chunked(b"IHDR", more) + chunked(b"IDAT", zeros) + chunked(b"IEND", b"")
    return {
        "bomb.png": (bomb(40_000, 40_000), "bomb (40000×40000)"),
        "bomb.gif": (wide, "bomb (60000×60000)"),
        "bomb.bmp": (bmp[:18] + huge + bmp[26:], "bomb (30000×30000)"),
        "bomb.tif": (tiff, "bomb (60000×60000)"),
        "bomb.ppm": (b"P6 40000 40000 255\n" + bytes(99), "bomb (40000×40000)"),
        "text bomb.png": (with_chunk(small, b"zTXt", b"Comment\0\0" + zeros), "unreadable"),
        "international text bomb.png": (
            with_chunk(encoded(fresh()), b"iTXt", b"Comment\0\1\0\0\0" + zeros),
            "unreadable",
        ),
        "profile bomb.png": (with_chunk(encoded(fresh()), b"iCCP", b"profile\0\0" + zeros), "unreadable"),
        "pixel bomb.png": (pixels, "blank"),  # 64 MiB for 48×48 pixels: what is too much is not unpacked
        "beyond any size.png": (bomb(2**31 - 1, 2**31 - 1), "bomb (2147483647×2147483647)"),
        "nothing wide.png": (bomb(0, 48), "unreadable"),
    }


def odd_modes() -> Planted:
    def several(form: str, **options: Any) -> bytes:
        return encoded(fresh(), form, save_all=True, append_images=[fresh(), fresh()], **options)

    turned, broken = Image.Exif(), b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(40))
    turned[0x0112] = 6
    clear, grey_clear = fresh().convert("RGBA"), fresh().convert("LA")
    for picture in (clear, grey_clear):
        picture.putalpha(Image.radial_gradient("L").resize(picture.size))
    see_through = fresh().quantize(64)
    unseen = fresh().convert("RGBA")
    unseen.putalpha(0)
    deep = np.asarray(fresh().convert("L")).astype(np.uint16) * 257
    white = flagged("odd mode (transparency on white)")
    return {
        "animated.gif": (several("GIF"), "animation (3 frames)"),
        "animated.webp": (several("WEBP"), "animation (3 frames)"),
        "animated.png": (several("PNG"), "animation (3 frames)"),
        "pages.tif": (several("TIFF"), "animation (3 frames)"),
        "camera.jpg": (several("MPO"), KEPT),
        "cmyk.jpg": (encoded(fresh().convert("CMYK"), "JPEG"), flagged("odd mode (CMYK)")),
        "cmyk.tif": (encoded(fresh().convert("CMYK"), "TIFF"), flagged("odd mode (CMYK)")),
        "palette.png": (encoded(fresh().quantize(64)), flagged("odd mode (palette)")),
        "transparent palette.png": (encoded(see_through, transparency=3), white),
        "grey with alpha.png": (encoded(grey_clear), white),
        "alpha.png": (encoded(clear), white),
        "nothing to be seen.png": (encoded(unseen), "blank"),
        "16 bit.png": (encoded(Image.fromarray(deep)), flagged("odd mode (16 bit)")),
        "1 bit.png": (encoded(fresh().convert("1")), KEPT),
        "float.tif": (encoded(fresh().convert("F"), "TIFF"), "unreadable (numbers of an unknown range)"),
        "32 bit.tif": (encoded(Image.new("I", (48, 48), 1 << 20), "TIFF"), "unreadable (more than 16 bits)"),
        "turned.jpg": (encoded(fresh(), "JPEG", exif=turned), flagged("odd mode (turned upright)")),
        "broken exif.jpg": (encoded(fresh(), "JPEG", exif=broken), KEPT),
        "broken profile.jpg": (encoded(fresh(), "JPEG", icc_profile=b"nonsense" * 40), KEPT),
        "other space.png": (encoded(fresh(), icc_profile=swapped_space()), flagged("odd mode (colour profile)")),
        "grey.png": (encoded(fresh().convert("L")), KEPT),
    }


def odd_shapes() -> Planted:
    almost = np.full((48, 48, 3), 100, np.uint8)
    almost[::9, ::7] += 1
    return {
        "pixel.png": (encoded(noise(next(seeds), size=(1, 1))), "too small (1×1)"),
        "line.png": (encoded(noise(next(seeds), size=(1, 5000))), "too small (1×5000)"),
        "strip.png": (encoded(noise(next(seeds), size=(5000, 10))), "extreme aspect (5000×10)"),
        "blank.png": (encoded(Image.new("RGB", (48, 48), "red")), "blank"),
        "black.jpg": (encoded(Image.new("L", (48, 48)), "JPEG"), "blank"),
        "almost blank.png": (encoded(Image.fromarray(almost)), "blank"),
    }
