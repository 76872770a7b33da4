"""A folder that nobody has looked at: whatever lies in it is kept or accounted for, and harms nothing."""

from __future__ import annotations

import io
import os
import pickle
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import TIMEOUT, Project
from pictures import encoded, noise
from PIL import Image, ImageCms
from test_cleaning import photograph
from test_decoding import bomb, chunked

from aigc_tasks.acquire import raw
from aigc_tasks.clean import looking
from aigc_tasks.clean.report import group

pytestmark = pytest.mark.slow

KEPT = "kept"
Planted = dict[str, tuple[bytes, str]]  # by path in the source: content, and what must become of it


def flagged(flag: str) -> str:
    return f"{KEPT}: {flag}"


def outcome(row: pd.Series) -> str:
    """What became of an entry, in the words that this module plants it with."""
    if pd.isna(row["reason"]):
        return flagged(row["flags"]) if row["flags"] else KEPT
    return str(row["reason"])


def matches(found: str, expected: str) -> bool:
    """The exact words, or their group where what is in brackets is a library's own."""
    return found == expected or (not found.startswith(KEPT) and group(pd.Series([found]))[0] == expected)


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


def another_space() -> bytes:
    """The profile of a space that is sRGB with red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = profile.replace("sRGB".encode("utf-16-be"), "grbS".encode("utf-16-be"))
    return renamed.replace(b"rXYZ", b"tXYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tXYZ", b"gXYZ", 1)


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
        "other space.png": (encoded(fresh(), icc_profile=another_space()), flagged("odd mode (colour profile)")),
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


NAMES = {  # as written, by how the manifest spells them
    "line\nbreak.png": "line\nbreak.png",
    "bell\x07.png": "bell\x07.png",
    "gpj.\u202egnp.png": "gpj.\u202egnp.png",
    os.fsdecode(b"caf\xe9.png"): "caf\\xe9.png",
    "é" * 120 + ".png": "é" * 120 + ".png",
    "<img src=x onerror=alert(1)>.png": "<img src=x onerror=alert(1)>.png",
    "{{ 7*7 }} {% raw %}.png": "{{ 7*7 }} {% raw %}.png",
    "a; b 'c' \"d\" $(touch e) `f`.png": "a; b 'c' \"d\" $(touch e) `f`.png",
    "back\\slash.png": "back\\slash.png",
    "-rf.png": "-rf.png",
    "  spaces  .PNG": "  spaces  .PNG",
    "no ending": "no ending",
}
UNSEEN = [".hidden.png", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", ".DS_Store", ".git/objects/a.png"]


def zipped(members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def encrypted() -> bytes:
    """A zip whose headers say that its only member is."""
    content = bytearray(zipped([("secret.png", encoded(fresh()))]))
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def tarred(kinds: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar of one picture and of members of these kinds."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, kind in {"whole.png": tarfile.REGTYPE, **kinds}.items():
            member, content = tarfile.TarInfo(name), encoded(fresh())
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def packed() -> tuple[dict[str, bytes], dict[str, str]]:
    """Archives to plant, and what must become of their members."""
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    outside = "points out of its archive"
    members = [
        ("../../escaped.png", encoded(fresh())),
        ("/tmp/absolute.png", encoded(fresh())),
        ("..\\..\\windows.png", encoded(fresh())),
        (link, b"/etc/passwd"),
        ("bomb.png", bytes(20 << 20)),
        ("nested.zip", zipped([("inner.png", encoded(fresh()))])),
        ("whole.png", encoded(fresh())),
        ("checksum.png", b"checksum of this is wrong" * 9),
    ]
    hostile = zipped(members)
    at = hostile.rindex(b"PK\x01\x02") + 16  # the CRC in the directory of the last member
    hostile = hostile[:at] + bytes(4) + hostile[at + 4 :]
    with zipfile.ZipFile(io.BytesIO(hostile)) as archive:
        times = (20 << 20) // archive.getinfo("bomb.png").compress_size
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped([("same.png", encoded(fresh())), ("same.png", encoded(fresh()))])
    tars = {
        "link.png": tarfile.SYMTYPE,
        "hard.png": tarfile.LNKTYPE,
        "device.png": tarfile.CHRTYPE,
        "pipe.png": tarfile.FIFOTYPE,
        "../up.png": tarfile.REGTYPE,
        "/abs.png": tarfile.REGTYPE,
    }
    broken = zipped([("lost.png", encoded(fresh()))])
    half = tarred({f"{n}.png": tarfile.REGTYPE for n in range(3)})
    kinds = {"link.png": "a link", "hard.png": "a link", "device.png": "not a regular file"}
    kinds |= {"pipe.png": "not a regular file", "%2E%2E/up.png": outside, "abs.png": outside, "whole.png": KEPT}
    content = {
        "hostile.zip": hostile,
        "encrypted.zip": encrypted(),
        "twice.zip": twice,
        "broken.zip": broken[: len(broken) // 2],
        "no zip.zip": b"<html>404</html>",
        "links.tar": tarred(tars),
        "packed.tar.gz": tarred(tars, "w:gz"),
        "cut.tar": half[: len(half) // 2],
        "no tar.tgz": b"nothing of the kind",
    }
    return content, {
        "hostile/%2E%2E/%2E%2E/escaped.png": outside,
        "hostile/tmp/absolute.png": outside,
        "hostile/%2E%2E/%2E%2E/windows.png": outside,
        "hostile/link.png": "a link",
        "hostile/bomb.png": f"bomb (unpacks to {times:,} times its size)",
        "hostile/nested.zip": "archive within an archive",
        "hostile/whole.png": KEPT,
        "hostile/checksum.png": "unreadable",
        "encrypted/secret.png": "encrypted",
        "twice/same.png": KEPT,
        "twice/same.png (2)": "has the name of another",
        "broken.zip": "unreadable archive",
        "no zip.zip": "unreadable archive",
        "no tar.tgz": "unreadable archive",
        **{f"links/{id}": said for id, said in kinds.items()},
        **{f"packed/{id}": said for id, said in kinds.items()},
        "cut/whole.png": KEPT,
        "cut/0.png": KEPT,
        "cut/1.png": "unreadable (cut off)",
        "cut/(the rest)": "archive damaged (after 3 members)",
    }


def plant(place: Path, mark: Path) -> dict[str, str]:
    """Put every kind of damage into the folder ``place``; returns what must become of each, by id."""
    expected: dict[str, str] = {}
    odd = place / "a" / "odd"
    odd.mkdir(parents=True)
    for planted in (cut_off(), flips(), other_types(mark), bombs(), odd_modes(), odd_shapes()):
        for name, (content, outcome) in planted.items():
            assert not (odd / name).exists()
            (odd / name).write_bytes(content)
            expected[f"a/odd/{name}"] = outcome
    for name, spelling in NAMES.items():
        (odd / name).write_bytes(encoded(fresh()))
        expected[f"a/odd/{spelling}"] = KEPT
    strange = place / "\u202e<b onclick=alert(1)>\nclass"
    strange.mkdir()
    (strange / "{}.png").write_bytes(encoded(fresh()))
    expected[f"{strange.name}/{{}}.png"] = KEPT
    for name in UNSEEN:
        (place / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "a" / name).write_bytes(encoded(fresh()))
    (place / "README.md").write_text("a note beside the pictures")
    content, members = packed()
    for name, archive in content.items():
        (place / "b" / name).write_bytes(archive)
    expected |= {f"b/{id}": outcome for id, outcome in members.items()}
    return expected | no_files(place)


def no_files(place: Path) -> dict[str, str]:
    """What is no regular file, or only seems to be one of the folder."""
    outside = place.parent / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(encoded(fresh()))
    (place / "c" / "empty.jpg").mkdir()  # holds nothing that could be accounted for
    (place / "c" / "folder.jpg").mkdir()
    (place / "c" / "folder.jpg" / "in it.png").write_bytes(encoded(fresh()))
    links = {"dangling.png": "nowhere.png", "out.png": outside / "secret.png", "out": outside, "loop.png": "loop.png"}
    links |= {"zero.png": "/dev/zero", "within.png": "../d/z0.png"}
    for name, target in links.items():
        (place / "c" / name).symlink_to(target)
    os.link(place / "d" / "z1.png", place / "d" / "zz.png")
    os.mkfifo(place / "c" / "pipe.png")
    with chdir(place / "c"), socket.socket(socket.AF_UNIX) as end:  # its path must be short
        end.bind("socket.png")
    with chdir(place / "d"):
        for _ in range(30):  # until no path is long enough to name it
            Path("deep" * 50).mkdir()
            os.chdir("deep" * 50)
    with open(place / "c" / "large.png", "wb") as file:
        file.truncate((64 << 20) + 1)
    reach = (os.pathconf(place, "PC_PATH_MAX") - len(os.fsencode(place / "d")) - 1) // 201 + 1
    away = "a link that leads out of the folder, to a folder or nowhere"
    return {
        "c/folder.jpg/in it.png": KEPT,
        **{f"c/{name}": away for name in ("dangling.png", "out.png", "out", "loop.png", "zero.png")},
        "c/pipe.png": "not a regular file",
        "c/socket.png": "not a regular file",
        "c/large.png": "larger than 64 MiB",
        "d/zz.png": "duplicate of d/z1.png",
        "/".join(["d"] + ["deep" * 50] * reach): "unreadable folder (File name too long)",
    }


def add(project: Project, source: Path, **knobs: Any) -> None:
    """A data set ``wild`` of a folder."""
    entry = {"acquire": {"kind": "folder", "source": str(source)}, "clean": {"size": 32, **knobs}, "features": {}}
    project.edit(lambda params: params["datasets"].update({"wild": entry}))


def manifest(project: Project) -> pd.DataFrame:
    return pd.read_parquet(project.path / "data/clean/wild/manifest.parquet").set_index("id")


def files_below(place: Path) -> set[str]:
    return {f"{folder}/{name}" for folder, folders, files in os.walk(place) for name in [*folders, *files]}


@pytest.mark.slow
def test_fifty_kinds_of_damage_are_each_accounted_for(project: Project, tmp_path: Path) -> None:
    place, mark = tmp_path / "source", tmp_path / "it was executed"
    good = [f"{'abcd'[n % 4]}/z{n // 4}.png" for n in range(200)]
    for n, id in enumerate(good):
        (place / id).parent.mkdir(parents=True, exist_ok=True)
        (place / id).write_bytes(encoded(photograph(n)))
    expected = plant(place, mark)
    twins = {  # of a good one: which of two stays, their splits say
        "a/recompressed.jpg": ("a/z2.png", encoded(photograph(8), "JPEG", quality=60)),
        "b/smaller.png": ("b/z2.png", encoded(photograph(9).resize((40, 40), Image.Resampling.LANCZOS))),
    }
    same = {
        "a/zz.bmp": ("a/z3.png", encoded(photograph(12), "BMP")),
        "b/zz.tif": ("b/z3.png", encoded(photograph(13), "TIFF")),
        "c/conflict.png": ("d/z3.png", encoded(photograph(15))),
    }
    for id, (_, content) in (twins | same).items():
        (place / id).write_bytes(content)
    assert len(expected) >= 100
    before = files_below(tmp_path)

    add(project, place, checks={"outlier": "off"})
    project.check(sys.executable, "-m", "aigc_tasks.acquire", "wild")
    project.check(sys.executable, "-m", "aigc_tasks.clean", "wild")

    again = project.check(sys.executable, "-m", "aigc_tasks.acquire", "wild")
    assert "0 added, 0 changed, 0 removed; 2 read" in again  # what could not be read might be readable by now

    found = manifest(project)
    said = {id: outcome(row) for id, row in found.iterrows()}
    assert {id: (said.get(id), what) for id, what in expected.items() if not matches(said.get(id, ""), what)} == {}
    pairs = {"c/within.png": "d/z0.png"} | {id: twin for id, (twin, _) in (twins | same).items()}
    for id, twin in pairs.items():
        words = "near duplicate of" if id in twins else "duplicate of"
        if id[0] != twin[0]:  # another label
            assert said[id] == f"label conflict with {twin}"
            assert said[twin] == f"label conflict with {id}"
        elif said[id] == KEPT:
            assert said[twin] == f"{words} {id}"
        else:
            assert said[id] == f"{words} {twin}"
            assert said[twin] == KEPT
    untouched = set(good) - set(pairs.values())
    assert {id: said[id] for id in untouched if said[id] != KEPT} == {}
    assert set(said) - set(expected) - set(pairs) - set(good) == set()  # hidden files, or what nobody planted
    page = (project.path / "reports/data/wild.html").read_text()
    dropped = set(group(found["reason"].dropna()))
    assert [words for words in dropped if words not in page] == []
    assert len(dropped) > 15
    assert "=alert(1)>" not in page
    assert "\u202e" not in page
    assert not mark.exists()
    written = files_below(tmp_path) - before
    assert {file for file in written if not Path(file).is_relative_to(project.path)} == set()


def full(mebibytes: int) -> bytes:
    """So many MiB that compress to a 285th, which is no bomb yet."""
    return np.random.default_rng(0).bytes((mebibytes << 20) // 450).ljust(mebibytes << 20, b"\0")


def archive(place: Path, kind: str, members: dict[str, bytes]) -> None:
    place.mkdir()
    if kind == "zip":
        (place / "a.zip").write_bytes(zipped(list(members.items())))
        return
    packing: Any = {"tar.gz": {"mode": "w:gz", "compresslevel": 6}, "tar.bz2": {"mode": "w:bz2"}}[kind]
    with tarfile.open(place / f"a.{kind}", **packing) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_of_large_members_does_not_fill_the_memory(project: Project, tmp_path: Path, kind: str) -> None:
    large, allowed = full(200), full(60)
    archive(tmp_path / "small", kind, {"1.png": encoded(fresh())})
    members = {f"{n:02d}.png": large for n in range(4)} | {f"{n:02d}.png": allowed for n in range(4, 12)}
    archive(tmp_path / "large", kind, members)
    peaks = {}
    for name in ("small", "large"):
        add(project, tmp_path / name, survive=0.0)
        process = project.start(sys.executable, "-m", "aigc_tasks.acquire", "wild", stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks[name] = used.ru_maxrss >> 10
    assert peaks["large"] - peaks["small"] < 500  # MiB: a few copies of one of them, where all are 1.3 GiB
    index = raw.index(project.path / "data/raw/wild").set_index("id")
    flaws = {id.removeprefix("a/"): flaw for id, flaw in index["flaw"].fillna("").items()}
    assert flaws == {name: "larger than 64 MiB" if content is large else "" for name, content in members.items()}
    assert set(index["size"]) == {0, len(allowed)}


def test_an_archive_that_is_a_bomb_as_a_whole_is_not_unpacked(project: Project, tmp_path: Path) -> None:
    members = {f"{n:02d}.png": bytes(15 << 20) for n in range(20)}
    for kind in ("zip", "tar.gz", "tar.bz2"):
        archive(tmp_path / kind, kind, members)
        add(project, tmp_path / kind, survive=0.0)
        project.check(sys.executable, "-m", "aigc_tasks.acquire", "wild")
        index = raw.index(project.path / "data/raw/wild").set_index("id")
        assert index["size"].sum() <= max(64 << 20, 500 * (tmp_path / kind / f"a.{kind}").stat().st_size)
        last = "a/19.png" if kind == "zip" else "a/(the rest)"
        assert index.loc[last, "flaw"] == "bomb (its archive unpacks to more than 500 times its size)"
        assert pd.isna(index.loc["a/00.png", "flaw"])


def mutated(whole: list[bytes], generator: np.random.Generator) -> bytes:
    """A valid file with one to four things wrong; ``whole`` has one of each format."""
    content = bytearray(whole[generator.integers(len(whole))])
    for _ in range(generator.integers(1, 5)):
        start = int(generator.integers(len(content)))
        if generator.random() < 0.5:  # what a decoder believes stands at the beginning
            start = int(generator.integers(min(64, len(content))))
        span = slice(start, start + int(generator.integers(1, 64)))
        match generator.integers(6):
            case 0:
                content[start] ^= 1 << generator.integers(8)
            case 1:
                del content[span]
            case 2:
                content[span] = 2 * content[span]
            case 3:
                content[span] = bytes(len(content[span]))
            case 4:  # a length or an offset, in either order of bytes
                lie = generator.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
                content[start : start + 4] = int(lie).to_bytes(4, "big" if generator.random() < 0.5 else "little")
            case 5:  # the beginning of another format
                other = whole[generator.integers(len(whole))]
                length = int(generator.integers(4, 40))
                content[:length] = other[:length]
        if not content:
            break
    return bytes(content)


@pytest.mark.slow
def test_a_few_thousand_mutated_images_do_no_harm(project: Project, tmp_path: Path) -> None:
    forms = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
    generator = np.random.default_rng(4)
    place, count = tmp_path / "source", 3000
    place.mkdir()
    whole: list[bytes] = []
    for n in range(count):
        if n % 50 == 0:
            whole = [encoded(noise(n + 1, size=(24, 24)), form) for form in forms]
        (place / f"{n:04d}.{forms[n % len(forms)].lower()}").write_bytes(mutated(whole, generator))
    before = files_below(tmp_path)

    add(project, place, survive=0.0, pixels=1_000_000)
    project.env["AIGC_WORKERS"] = "2"
    for stage in ("acquire", "clean"):
        output = project.check(sys.executable, "-m", f"aigc_tasks.{stage}", "wild")
        assert "Traceback" not in output

    found = manifest(project)
    assert set(found.index) == {file.name for file in place.iterdir()}
    assert (found["reason"].notna() | found["sha256"].notna()).all()
    unreadable = found["sha256"].isna()
    assert 500 < unreadable.sum() < count - 200  # both ends were met: what decodes and what does not
    assert (found["width"] * found["height"])[~unreadable].max() <= 1_000_000
    assert set(group(found["reason"][unreadable])) <= {"unreadable", "truncated", "bomb", "animation"}
    assert {file for file in files_below(tmp_path) - before if not Path(file).is_relative_to(project.path)} == set()


MANY = 6000  # files: enough that several processes look at them, also when some chunks are finished


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of many small files."""
    place = tmp_path_factory.mktemp("many")
    for n in range(MANY):
        (place / f"{n:04d}.png").write_bytes(encoded(photograph(n, 24)))
    return place


def acquired(project: Project, place: Path) -> Project:
    add(project, place, size=None)
    project.env |= {"AIGC_WORKERS": "2", "AIGC_PROGRESS": "1"}
    project.check(sys.executable, "-m", "aigc_tasks.acquire", "wild")
    return project


def new_chunks(output: str) -> int:
    """How many chunks had to be looked at, by the last progress line."""
    line = [line for line in output.splitlines() if "chunks new" in line][-1]
    return int(line.split(" of ")[0].split()[-1])


def written(project: Project) -> dict[str, bytes]:
    places = [*(project.path / "data/clean/wild").iterdir(), project.path / "reports/data/wild.html"]
    return {file.name: file.read_bytes() for file in places}


def looked_at(project: Project) -> int:
    """Chunks that are finished."""
    return len(list((project.path / ".aigc/clean/wild").glob("[0-9a-f]*.parquet")))


def unfinished(project: Project) -> list[Path]:
    """What was left half-written, other than acquire's own state, which its next run goes on with."""
    return [file for name in ("data", "reports", ".aigc/clean") for file in (project.path / name).rglob("*.unfinished")]


def kill_when(project: Project, condition: Callable[[], Any]) -> list[psutil.Process]:
    """Start cleaning, kill it as soon as the condition holds; returns its children of that moment."""
    process = project.start(sys.executable, "-m", "aigc_tasks.clean", "wild", stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return children


def test_a_killed_cleaning_leaves_nothing_running_and_goes_on(
    new_project: Callable[[str], Project], many: Path
) -> None:
    calm, killed = (acquired(new_project(name), many) for name in ("calm", "killed"))
    total = new_chunks(calm.check(sys.executable, "-m", "aigc_tasks.clean", "wild"))
    assert total >= 5

    moments: list[Callable[[int], Any]] = [
        lambda before: looked_at(killed) > before,
        lambda before: looked_at(killed) > before,
        lambda before: (killed.path / "data/clean/.wild.unfinished").exists(),
    ]
    for moment in moments:
        before = looked_at(killed)
        children = kill_when(killed, lambda moment=moment, before=before: moment(before))
        assert children or (total - before) * raw.GROUP_ROWS <= looking.FEW + raw.GROUP_ROWS
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
        assert not (killed.path / "data/clean/wild").exists()
    finished = looked_at(killed)
    assert finished == total
    assert new_chunks(killed.check(sys.executable, "-m", "aigc_tasks.clean", "wild")) == total - finished
    assert written(killed) == written(calm)
    assert unfinished(killed) == []


@pytest.mark.parametrize("stage", ["acquire", "clean"])
def test_a_full_disk_is_one_line_and_nothing_half_written(project: Project, many: Path, stage: str) -> None:
    acquired(project, many) if stage == "clean" else add(project, many, size=None)
    outputs = [
        project.path / "data/raw/wild",
        project.path / "data/clean/wild",
        project.path / "reports/data/wild.html",
    ]
    before = {place: place.exists() for place in outputs}
    limit = 300_000

    process = project.start(
        *(sys.executable, "-m", f"aigc_tasks.{stage}", "wild"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    output, _ = process.communicate(timeout=TIMEOUT)
    lines = [line for line in output.splitlines() if not line.startswith("\x1e")]
    assert process.returncode == 1
    assert len(lines) == 1, output
    assert lines[0].startswith("error: ")
    assert "File too large" in lines[0]
    assert {place: place.exists() for place in outputs} == before
    assert unfinished(project) == []

    for name in ("acquire", "clean"):  # now there is room
        project.check(sys.executable, "-m", f"aigc_tasks.{name}", "wild")
    assert len(manifest(project)) == MANY
