"""Pictures as strangers make and break them: each is shown rightly, or said to be what it is."""

from __future__ import annotations

import io
import itertools
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from pictures import bomb, chunked, encoded, handmade, noise, photograph, swapped_space
from PIL import Image

from aigc_tasks.clean import Checks, Knobs
from aigc_tasks.clean.decoding import Flaw, decoded

CLOSE = 8.0  # levels of 255 by which a whole picture may differ from what it was made of, on average: JPEG's loss


class Planted(NamedTuple):
    """A file, what must be said of it, and what must be seen in it if it is kept."""

    content: bytes
    reason: str | None = None  # None: kept
    flags: str = ""
    shows: Image.Image | None = None


def tiff(pixels: bytes, pages: int = 1, **tags: int) -> bytes:
    """A grey TIFF with ``pages`` directories that all show the same."""
    start = 8 + len(pixels)
    known = {"t256": 48, "t257": 48, "t258": 8, "t259": 1, "t262": 1, "t277": 1, "t273": 8, "t278": 48, "t279": 48 * 48}
    known = {name: value for name, value in sorted((known | tags).items()) if value >= 0}
    entries = b"".join(struct.pack("<HHII", int(name[1:]), 4, 1, value) for name, value in known.items())
    size = 2 + len(entries) + 4
    chain = [
        struct.pack("<H", len(known)) + entries + struct.pack("<I", start + number * size if number < pages else 0)
        for number in range(1, pages + 1)
    ]
    return b"II*\0" + struct.pack("<I", start) + pixels + b"".join(chain)


def changed(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def cut_and_flipped(photo: Iterator[Image.Image]) -> dict[str, Planted]:
    """Files that break off, were never filled, or have wrong bytes in them."""
    jpeg, good, deep = encoded(next(photo), "JPEG"), encoded(next(photo)), encoded(noise(1, size=(48, 48)))
    webp, lossless = encoded(next(photo), "WEBP"), encoded(next(photo), "WEBP", lossless=True)
    gif, progressive = encoded(next(photo), "GIF"), encoded(next(photo), "JPEG", progressive=True)
    noisy = encoded(noise(2, size=(48, 48)), "JPEG", quality=98)
    bmp, tif = encoded(next(photo), "BMP"), encoded(next(photo), "TIFF")
    packed = encoded(next(photo), "TIFF", compression="tiff_deflate")
    scan, idat, header = jpeg.index(b"\xff\xda"), good.index(b"IDAT"), jpeg.index(b"\xff\xc0")
    none, broken = "unreadable (no picture inside)", "unreadable (OSError)"

    def unfilled(content: bytes, share: float = 0.4) -> bytes:
        """Its first part, and zeros up to its full length: a download that was never finished."""
        return content[: int(share * len(content))].ljust(len(content), b"\0")

    return {
        "cut at once.jpg": Planted(jpeg[:1], none),
        "cut in the tables.jpg": Planted(jpeg[:160], none),
        "cut before the scan.jpg": Planted(jpeg[:scan], broken),
        "cut in the scan.jpg": Planted(jpeg[: (scan + len(jpeg)) // 2], "truncated"),
        "cut progressive.jpg": Planted(progressive[: len(progressive) // 2], "truncated"),
        "cut in the header.png": Planted(good[:20], broken),
        "cut before the pixels.png": Planted(good[:33], none),
        "cut in the pixels.png": Planted(good[: len(good) // 2], "truncated"),
        "cut.webp": Planted(webp[: len(webp) // 2], broken),
        "cut lossless.webp": Planted(lossless[: len(lossless) // 2], broken),
        "cut.gif": Planted(gif[: len(gif) // 2], "truncated"),
        "cut in the palette.gif": Planted(gif[:100], none),
        "cut.bmp": Planted(bmp[: len(bmp) // 2], "truncated"),
        "cut.tif": Planted(tif[: len(tif) // 2], "truncated"),
        "cut with its directory.tif": Planted(packed[: len(packed) // 2], none),
        "cut.avif": Planted(encoded(next(photo), "AVIF")[:200], none),
        "unfilled.jpg": Planted(unfilled(noisy, 0.5), "truncated"),
        "unfilled.png": Planted(unfilled(good), "truncated"),
        "unfilled.webp": Planted(unfilled(webp, 0.3), "truncated"),
        "unfilled lossless.webp": Planted(unfilled(lossless), "truncated"),
        "unfilled.gif": Planted(unfilled(gif), "truncated"),
        "only zeros.jpg": Planted(bytes(5000), none),
        "first bit.jpg": Planted(changed(jpeg, 0, b"\x7f"), none),
        "no height.jpg": Planted(changed(jpeg, header + 5, b"\0\0"), none),
        "sampling.jpg": Planted(changed(jpeg, header + 11, b"\xff"), "truncated"),
        "header checksum.png": Planted(changed(good, 30, b"\0\0"), none),
        "a bit of the pixels.png": Planted(
            changed(deep, len(deep) // 2, bytes([deep[len(deep) // 2] ^ 4])), "truncated"
        ),
        "chunk of absurd length.png": Planted(changed(good, idat - 4, b"\x7f\xff\xff\xff"), "truncated"),
    }


def other_types(photo: Iterator[Image.Image]) -> dict[str, Planted]:
    """The ending says one thing, the content is another."""
    one, two, three = next(photo), next(photo), next(photo)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(unpickled) (w) file\n%%EOF\n"
    shell = b"#!/bin/sh\nmkdir unpickled\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", encoded(one))
    inside = {
        "page.png": b"<!DOCTYPE html><html><script>alert(1)</script>", "drawing.png": svg, "drawing.jpg": eps,
        "paper.png": b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n", "archive.png": archive.getvalue(), "script.png": shell,
        "film.jpg": b"\0\0\0\x18ftypmp42" + bytes(99), "program.jpg": b"\x7fELF" + bytes(99),
        "pickle.png": pickle.dumps({"a": 1}), "icon.png": encoded(one, "ICO"), "scan.jpg": encoded(one, "JPEG2000"),
    }  # fmt: skip
    notes = {"notes.txt": b"hello", "table.csv": b"a,b\n", "drawing.svg": svg, "drawing.eps": eps, "run.sh": shell}
    return {
        "really PNG.jpg": Planted(encoded(one), None, "wrong type (PNG behind .jpg)", one),
        "really JPEG.png": Planted(encoded(two, "JPEG"), None, "wrong type (JPEG behind .png)", two),
        "really WebP.gif": Planted(encoded(three, "WEBP"), None, "wrong type (WEBP behind .gif)", three),
        "empty.jpg": Planted(b"", "unreadable (empty file)"),
        **{name: Planted(content, "unreadable (no picture inside)") for name, content in inside.items()},
        **{name: Planted(content, "not a picture") for name, content in notes.items()},
    }


def bombs(photo: Iterator[Image.Image]) -> dict[str, Planted]:
    """A few bytes that would become very many, or would keep a core busy for hours."""
    jpeg, webp, good, one = (
        encoded(next(photo), "JPEG"),
        encoded(next(photo), "WEBP"),
        encoded(next(photo)),
        next(photo),
    )
    frame, key = jpeg.index(b"\xff\xc0") + 5, webp.index(b"\x9d\x01\x2a") + 3
    zeros = zlib.compress(bytes(80 << 20), 9)
    scans = encoded(next(photo), "JPEG", progressive=True)
    last = scans[scans.rindex(b"\xff\xda") : -2]
    gif = b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\1\0\1\0\0\x02\x02D\x01\0;"
    bmp = encoded(next(photo), "BMP")
    lines = b"".join(b"\0" + line.tobytes() for line in np.asarray(one))
    text = "unreadable (ValueError)"
    return {
        "bomb.png": Planted(bomb(40_000, 40_000), "bomb (40000×40000)"),
        "bomb.gif": Planted(gif, "bomb (65535×65535)"),
        "bomb.jpg": Planted(changed(jpeg, frame, struct.pack(">HH", 65_000, 65_000)), "bomb (65000×65000)"),
        "bomb.webp": Planted(changed(webp, key, b"\xff\x3f\xff\x3f"), "bomb (16383×16383)"),
        "bomb.bmp": Planted(changed(bmp, 18, struct.pack("<II", 10**6, 10**6)), "bomb (1000000×1000000)"),
        "bomb.tif": Planted(tiff(bytes(99), t256=10**5, t257=10**5), "bomb (100000×100000)"),
        "bomb.ppm": Planted(b"P6 99999 99999 255\n" + bytes(99), "bomb (99999×99999)"),
        "bomb.tga": Planted(bytes([0, 0, 10]) + bytes(9) + b"\xff\xff\xff\xff\x18\0\xff\0\0\0", "bomb (65535×65535)"),
        "tile.tif": Planted(
            tiff(zeros, t259=8, t273=-1, t278=-1, t279=-1, t322=9152, t323=9152, t324=8, t325=len(zeros)),
            "bomb (a tile of 9152×9152)",
        ),
        "scans.jpg": Planted(
            scans[:-2] + last * 600 + b"\xff\xd9", f"bomb ({scans.count(bytes([255, 218])) + 600} scans)"
        ),
        "pages.tif": Planted(tiff(np.asarray(next(photo).convert("L")).tobytes(), 9000), "animation (1000 frames)"),
        "comment.png": Planted(good[:33] + chunked(b"zTXt", b"k\0\0" + zeros) + good[33:], text),
        "international.png": Planted(good[:33] + chunked(b"iTXt", b"k\0\1\0\0\0" + zeros) + good[33:], text),
        "profile.png": Planted(good[:33] + chunked(b"iCCP", b"k\0\0" + zeros) + good[33:], text),
        "more than its pixels.png": Planted(handmade(48, 48, 8, 2, lines + bytes(80 << 20)), None, "", one),
    }


def odd_modes(photo: Iterator[Image.Image]) -> dict[str, Planted]:
    """Pictures that are no plain grey or RGB, and frames beside the first."""
    plain = [next(photo) for _ in range(16)]
    grey = [picture.convert("L") for picture in plain]
    levels = np.asarray(grey[0]).astype(np.uint16) * 257
    colours = np.asarray(plain[1]).astype(">u2") * 257
    half = Image.linear_gradient("L").resize((48, 48))
    palette = plain[2].quantize(256, dither=Image.Dither.NONE)
    few = plain[3].quantize(8, dither=Image.Dither.NONE)
    see_through = [plain[4].copy(), grey[5].copy()]
    for picture in see_through:
        picture.putalpha(half)
    on_white = [
        Image.composite(picture, Image.new(picture.mode, (48, 48), "white"), half) for picture in (plain[4], grey[5])
    ]
    holes = few.convert("RGBA")
    holes.putalpha(Image.fromarray(np.where(np.asarray(few) == 3, 0, 255).astype(np.uint8)))
    white = Image.alpha_composite(Image.new("RGBA", (48, 48), "white"), holes).convert("RGB")
    bits = grey[6].convert("1")
    adobe = encoded(plain[7].convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in adobe  # which means: stored the other way round
    deep = b"".join(b"\0" + line.tobytes() for line in colours)
    animated = {"save_all": True, "append_images": plain[12:14], "duration": 100}
    white_flag, frames = "odd mode (transparency on white)", "animation (3 frames)"
    return {
        "grey.png": Planted(encoded(grey[8]), None, "", grey[8]),
        "16 bit.png": Planted(encoded(Image.fromarray(levels)), None, "odd mode (16 bit)", grey[0]),
        "16 bit colours.png": Planted(handmade(48, 48, 16, 2, deep), None, "odd mode (16 bit)", plain[1]),
        "16 bit.tif": Planted(encoded(Image.fromarray(levels[::-1]), "TIFF"), None, "odd mode (16 bit)",
                              grey[0].transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
        "palette.png": Planted(encoded(palette), None, "odd mode (palette)", plain[2]),
        "transparent palette.gif": Planted(encoded(few, "GIF", transparency=3), None, white_flag, white),
        "alpha.png": Planted(encoded(see_through[0]), None, white_flag, on_white[0]),
        "grey alpha.png": Planted(encoded(see_through[1]), None, white_flag, on_white[1]),
        "1 bit.png": Planted(encoded(bits), None, "", bits.convert("L")),
        "inverted CMYK.jpg": Planted(adobe, None, "odd mode (CMYK)", plain[7]),
        "CMYK.tif": Planted(encoded(plain[9].convert("CMYK"), "TIFF"), None, "odd mode (CMYK)", plain[9]),
        "YCbCr.tif": Planted(encoded(plain[10].convert("YCbCr"), "TIFF"), None, "odd mode (YCbCr)", plain[10]),
        "float.tif": Planted(encoded(grey[11].convert("F"), "TIFF"), "unreadable (numbers of an unknown range)"),
        "32 bit.tif": Planted(encoded(grey[11].convert("I"), "TIFF"), "unreadable (more than 16 bits)"),
        "film.gif": Planted(encoded(plain[11], "GIF", **animated), frames, "odd mode (palette)"),
        "film.png": Planted(encoded(plain[11], "PNG", **animated), frames),
        "film.webp": Planted(encoded(plain[11], "WEBP", **animated), frames),
        "film.avif": Planted(encoded(plain[11], "AVIF", **animated), frames),
        "three pages.tif": Planted(encoded(plain[11], "TIFF", save_all=True, append_images=plain[12:14]), frames),
        "with a preview.jpg": Planted(
            encoded(plain[14], "MPO", save_all=True, append_images=[plain[12]]), None, "", plain[14]
        ),
    }  # fmt: skip


def exif(orientation: int, more: bytes = b"") -> bytes:
    """EXIF with an orientation and one more entry."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation) + more
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries) // 12) + entries + bytes(4)


def metadata(photo: Iterator[Image.Image]) -> dict[str, Planted]:
    """What stands beside the pixels: followed where it is right, without a say where it is broken."""
    plain = [next(photo) for _ in range(8)]

    def with_exif(picture: Image.Image, payload: bytes) -> bytes:
        content = encoded(picture, "JPEG", quality=95)
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + content[2:]

    space = swapped_space()
    blue = Image.merge("RGB", plain[4].split()[::-1])
    beside = chunked(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 20\nnonsense"))
    loop = struct.pack("<HHII", 0x8769, 4, 1, 8)
    far = struct.pack("<HHII", 0x010F, 2, 1 << 30, 0x7FFFFFFF)
    flag = "odd mode (turned upright)"
    turned = [plain[n].transpose(Image.Transpose.ROTATE_270) for n in range(2)]
    return {
        "turned.jpg": Planted(with_exif(plain[0], exif(6, loop)), None, flag, turned[0]),
        "turned, then nonsense.jpg": Planted(with_exif(plain[1], exif(6, far)), None, flag, turned[1]),
        "turned by 99.jpg": Planted(with_exif(plain[2], exif(99)), None, "", plain[2]),
        "broken EXIF.jpg": Planted(with_exif(plain[3], b"Exif\0\0II*\0" + bytes(range(255))), None, "", plain[3]),
        "broken EXIF.png": Planted(encoded(plain[5])[:33] + beside + encoded(plain[5])[33:], None, "", plain[5]),
        "other space.png": Planted(encoded(plain[4], icc_profile=space), None, "odd mode (colour profile)", blue),
        "broken profile.jpg": Planted(encoded(plain[6], "JPEG", icc_profile=space[:200]), None, "", plain[6]),
        "broken profile.png": Planted(
            encoded(plain[7])[:33] + chunked(b"iCCP", b"k\0\0nonsense") + encoded(plain[7])[33:], None, "", plain[7]
        ),
    }  # fmt: skip


photo = (photograph(seed) for seed in itertools.count(1000))
KINDS = {
    name: picture
    for kinds in (cut_and_flipped, other_types, bombs, odd_modes, metadata)
    for name, picture in kinds(photo).items()
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_shown_rightly_or_said_to_be_what_it_is(name: str) -> None:
    content, reason, flags, shows = KINDS[name]
    try:
        found = decoded(content, name, Knobs())
    except Flaw as flaw:
        assert str(flaw) == reason  # noqa: PT017 (what is expected says whether there is one)
        return
    assert (found.reason, "; ".join(found.flags)) == (reason, flags)
    if shows is not None:
        assert found.pixels.size == shows.size
        difference = np.asarray(found.pixels.convert("RGB"), int) - np.asarray(shows.convert("RGB"))
        assert np.abs(difference).mean() < CLOSE


def test_what_was_never_filled_can_be_kept_and_is_flagged() -> None:
    for name in ("unfilled.png", "unfilled.webp", "unfilled.jpg"):
        found = decoded(KINDS[name].content, name, Knobs(checks=Checks(truncated="flag")))
        assert (found.reason, found.flags) == (None, ["truncated"])
        assert found.pixels.size == (48, 48)


def test_the_first_of_many_pages_is_a_picture() -> None:
    found = decoded(KINDS["pages.tif"].content, "a.tif", Knobs(checks=Checks(animation="flag")))
    assert found.reason is None
    assert found.flags == ["animation (1000 frames)"]
    assert found.pixels.size == (48, 48)
    broken = KINDS["pages.tif"].content[:-60]  # in the last of its directories
    assert decoded(broken, "a.tif", Knobs(checks=Checks(animation="flag"))).flags == found.flags


def test_zeros_behind_a_whole_picture_do_no_harm() -> None:
    for form, ending in (("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif")):
        found = decoded(encoded(photograph(1), form) + bytes(4096), f"a.{ending}", Knobs(checks=Checks(odd_mode="off")))
        assert (found.reason, found.flags) == (None, [])
