"""An encoded picture as plain pixels: upright, grey or RGB, or the reason why it is none.

Only formats that Pillow decodes itself are asked for; none of them runs a program.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from posixpath import splitext

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from aigc_tasks.clean import Knobs

ENDINGS = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "WEBP": {".webp"},
    "BMP": {".bmp", ".dib"},
    "GIF": {".gif"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
    "AVIF": {".avif"},
    "TGA": {".tga"},
}
FORMATS = [form for form in ENDINGS if form != "MPO"]  # which Pillow knows as a kind of JPEG alone
KNOWN = {ending for endings in ENDINGS.values() for ending in endings}
UNSIGNED = 0xFFFF  # the largest level of a 16-bit picture
DEEP = re.compile(r"(RGB.?|LA|CMYK);16")  # what Pillow calls the levels of a file that it makes 8-bit ones of
SCANS = 500  # of a progressive JPEG: each is a pass over the whole picture, and real ones have a dozen
PAGES = 1000  # of a TIFF that are counted: Pillow compares each with all before it
TILE = (322, 323)  # TIFF's tags: width and height
ZEROS = bytes(256)  # at the end of a compressed picture: its length came, its content never did
NO_MARGINS = (0.0, 0.0, 0.0, 0.0)
UNTURNED = None, (0, 1, 2, 3)
TURNS = {  # by EXIF's orientation: how to turn it, and which edges (left, top, right, bottom) become these four
    2: (Image.Transpose.FLIP_LEFT_RIGHT, (2, 1, 0, 3)),
    3: (Image.Transpose.ROTATE_180, (2, 3, 0, 1)),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, (0, 3, 2, 1)),
    5: (Image.Transpose.TRANSPOSE, (1, 0, 3, 2)),
    6: (Image.Transpose.ROTATE_270, (3, 0, 1, 2)),
    7: (Image.Transpose.TRANSVERSE, (3, 2, 1, 0)),
    8: (Image.Transpose.ROTATE_90, (1, 2, 3, 0)),
}
GAP = 2.0  # a large picture is made smaller by whole blocks first, to no less than so many times the size asked for
Image.MAX_IMAGE_PIXELS = None  # `pixels` in params.yaml is the bound, which is checked before decoding


class Flaw(Exception):
    """Why there are no pixels to learn from; the message is the manifest's reason."""


@dataclass
class Picture:
    """Plain pixels, mode L or RGB, upright, and what was found on the way."""

    pixels: Image.Image  # of a large JPEG perhaps fewer than the file has: see `sparing`
    mode: str  # in the file
    size: tuple[int, int]  # width and height in the file, upright
    margins: Sequence[float] = NO_MARGINS  # of `pixels` beyond the picture's left, top, right and bottom edge
    contrast: float | None = None  # before it was fitted, where that tells more
    reason: str | None = None  # why it is dropped all the same
    flags: list[str] = field(default_factory=list)


def decoded(content: bytes, name: str, knobs: Knobs) -> Picture:
    """The first picture in ``content``; raises ``Flaw``. Nothing that a file holds raises anything else."""
    if not content:
        raise Flaw("unreadable (empty file)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters about a file is written in the manifest
            with Image.open(io.BytesIO(content), formats=FORMATS) as file:
                return looked_at(file, content, name, knobs)
    except Flaw:
        raise
    except UnidentifiedImageError:
        known = splitext(name)[1].lower() in KNOWN
        raise Flaw("unreadable (no picture inside)" if known else "not a picture") from None
    except Exception as error:  # a damaged file makes decoders raise anything
        raise Flaw(f"unreadable ({type(error).__name__})") from None


def looked_at(file: ImageFile.ImageFile, content: bytes, name: str, knobs: Knobs) -> Picture:
    """The opened file as a plain picture; what its header says is judged before a pixel is decoded."""
    checks = knobs.checks
    defused(file, content, knobs.pixels)
    found = Picture(file, file.mode, file.size)
    ending = splitext(name)[1].lower()
    if ending in KNOWN and ending not in ENDINGS[file.format or ""]:
        judge(found, checks.wrong_type, "wrong type", f"{file.format} behind {ending}")
    frames = pages(file) if file.format == "TIFF" else getattr(file, "n_frames", 1)
    if frames > 1 and file.format != "MPO":  # a camera's preview beside the picture
        judge(found, checks.animation, "animation", f"{frames} frames")
    tiles = getattr(file, "tile", None)
    levels = str(tiles[0].args) if tiles else ""
    if file.mode == "I" and ";32" in levels:
        raise Flaw("unreadable (more than 16 bits)")
    try:
        found.margins = sparing(file, knobs.size)
        file.load()
        if breaks_off(file.format, content):
            judge(found, checks.truncated, "truncated")
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if "truncated" not in str(error) and "broken" not in str(error) and not isinstance(error, EOFError):
            raise
        judge(found, checks.truncated, "truncated")
        if found.reason:
            raise Flaw(found.reason) from None
        file, found.margins = remains(content), NO_MARGINS
    conversions = ["16 bit"] if DEEP.search(levels) else []
    turn, edges = turn_of(file)
    found.margins = [found.margins[edge] for edge in edges]
    if edges[0] % 2:  # it lies on its side
        found.size = found.size[1], found.size[0]
    found.pixels = plain(upright(file, turn, conversions), conversions)
    for conversion in conversions:
        judge(found, checks.odd_mode, "odd mode", conversion)
    return found


def defused(file: ImageFile.ImageFile, content: bytes, pixels: int) -> None:
    """Raise ``Flaw`` if decoding would take memory or time out of all proportion to the content."""
    if file.width * file.height > pixels:
        raise Flaw(f"bomb ({file.width}×{file.height})")
    if file.format == "TIFF":
        width, height = (file.tag_v2.get(tag, 0) for tag in TILE)  # type: ignore[attr-defined]
        if isinstance(width, int) and isinstance(height, int) and width * height > pixels:
            raise Flaw(f"bomb (a tile of {width}×{height})")
    if file.info.get("progressive") and (scans := content.count(b"\xff\xda")) > SCANS:
        raise Flaw(f"bomb ({scans} scans)")


def sparing(file: ImageFile.ImageFile, side: int | None) -> tuple[float, float, float, float]:
    """Have a JPEG that is far larger than the square of ``side`` pixels it is for decoded at a half, quarter or eighth.

    The decoder then averages each block in the domain of frequencies, which takes a fraction of the time; ``GAP`` times
    the size stay to be filtered. All of the file is read all the same: damage is found as before. Returns the margins:
    the decoder rounds width and height up, and of the last column and row a part lies beyond the picture.
    """
    drafted = file.draft(None, (int(GAP * side),) * 2) if side and file.format in ("JPEG", "MPO") else None
    if drafted is None:
        return NO_MARGINS
    _, (_, _, width, height) = drafted
    return (0, 0, file.width - width, file.height - height)


def pages(file: ImageFile.ImageFile) -> int:
    """The pages of a TIFF that can be read, at most ``PAGES``."""
    count = 1
    with suppress(Exception):  # EOFError at the end; a damaged later page raises anything
        while count < PAGES:
            file.seek(count)
            count += 1
    file.seek(0)
    return count


def breaks_off(form: str | None, content: bytes) -> bool:
    """Whether pixels are made of what is no content, unnoticed by the decoder: zeros decode to anything.

    A PNG's pixels have checksums, which Pillow does not compare.
    """
    if form == "PNG":
        return any(has_wrong_checksum(content, at, end) for at, end, kind in png_chunks(content) if kind == b"IDAT")
    if form in ("JPEG", "MPO"):  # an end marker does not occur within a scan
        return content.endswith(ZEROS) and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
    return form in ("WEBP", "AVIF") and content.endswith(ZEROS)


def has_wrong_checksum(content: bytes, start: int, end: int) -> bool:
    """Whether the PNG chunk that begins at ``start`` and whose data end at ``end`` is not what was written."""
    return content[end : end + 4] != zlib.crc32(memoryview(content)[start + 4 : end]).to_bytes(4, "big")


def png_chunks(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Begin, end of the data, and type of each chunk up to the last one."""
    at, kind = 8, b""
    while kind != b"IEND" and at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        yield at, at + 8 + length, kind
        at += length + 12


def judge(found: Picture, policy: str, reason: str, detail: str = "") -> None:
    """Follow the policy of one check that found something."""
    said = f"{reason} ({detail})" if detail else reason
    if policy == "drop":
        found.reason = found.reason or said
    elif policy == "flag":
        found.flags.append(said)


def remains(content: bytes) -> ImageFile.ImageFile:
    """What there is of a picture that breaks off."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        file = Image.open(io.BytesIO(content), formats=FORMATS)
        file.load()
        return file
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def turn_of(picture: Image.Image) -> tuple[Image.Transpose | None, tuple[int, int, int, int]]:
    """What turns the picture as the camera was held, by its EXIF."""
    try:
        return TURNS.get(picture.getexif().get(0x0112, 1), UNTURNED)
    except Exception:  # broken EXIF says nothing, and raises anything
        return UNTURNED


def upright(picture: Image.Image, turn: Image.Transpose | None, conversions: list[str]) -> Image.Image:
    """Turned by ``turn``, in sRGB if an embedded profile says it is in another space."""
    if turn is not None:
        conversions.append("turned upright")
        picture = picture.transpose(turn)
    profile = picture.info.get("icc_profile")
    if profile and picture.mode in ("RGB", "RGBA", "CMYK"):
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(given):
                mode = "RGBA" if picture.mode == "RGBA" else "RGB"
                converted = ImageCms.profileToProfile(picture, given, ImageCms.createProfile("sRGB"), outputMode=mode)
                if converted is not None:
                    conversions.append("colour profile")
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError):  # a broken profile says nothing
            pass
    return picture


def plain(picture: Image.Image, conversions: list[str]) -> Image.Image:
    """In mode L if it is grey, else RGB, on white where it is transparent; raises ``Flaw``."""
    mode = picture.mode
    if mode in ("L", "RGB") and not picture.has_transparency_data:
        return picture
    if mode == "1":
        return picture.convert("L")
    if mode.startswith("I"):
        levels = np.asarray(picture).astype(np.int64)
        if levels.min() < 0 or levels.max() > UNSIGNED:
            raise Flaw("unreadable (more than 16 bits)")
        conversions.append("16 bit")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if mode == "F":
        raise Flaw("unreadable (numbers of an unknown range)")
    if picture.has_transparency_data:
        conversions.append("transparency on white")
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture.convert("RGBA"))
        return flat.convert("L") if mode in ("L", "LA") else greyed(flat.convert("RGB"), mode)
    conversions.append({"P": "palette"}.get(mode, mode))
    return greyed(picture.convert("RGB"), mode)


def greyed(colours: Image.Image, mode: str) -> Image.Image:
    """In mode L if it came from a palette of greys: the mode of such a file does not tell."""
    if mode not in ("P", "PA"):
        return colours
    pixels = np.asarray(colours)
    return colours.convert("L") if (pixels == pixels[..., :1]).all() else colours
