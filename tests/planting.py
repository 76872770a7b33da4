"""A folder in which everything is damaged that can be, and what must become of each."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import zipfile
from contextlib import chdir
from pathlib import Path

import pandas as pd
import pytest
from archives import zipped
from damaged_pictures import KEPT, bombs, cut_off, flagged, flips, fresh, odd_modes, odd_shapes, other_types
from pictures import encoded

from aigc_tasks.clean.report import group

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


def outcome(row: pd.Series) -> str:
    """What became of an entry, in the words with which it was planted."""
    if pd.isna(row["reason"]):
        return flagged(row["flags"]) if row["flags"] else KEPT
    return str(row["reason"])


def matches(found: str, expected: str) -> bool:
    """The exact words, or their group where what is in brackets is a library's own."""
    return found == expected or (not found.startswith(KEPT) and group(pd.Series([found]))[0] == expected)


def encrypted() -> bytes:
    """A zip whose headers say that its only member is."""
    content = bytearray(zipped([("secret.png", encoded(fresh()))]))
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def tar_of_kinds(kinds: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar of one picture and of members of these kinds."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, kind in {"whole.png": tarfile.REGTYPE, **kinds}.items():
            member, content = tarfile.TarInfo(name), encoded(fresh())
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def hostile_archives() -> tuple[dict[str, bytes], dict[str, str]]:
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
    half = tar_of_kinds({f"{n}.png": tarfile.REGTYPE for n in range(3)})
    kinds = {"link.png": "a link", "hard.png": "a link", "device.png": "not a regular file"}
    kinds |= {"pipe.png": "not a regular file", "%2E%2E/up.png": outside, "abs.png": outside, "whole.png": KEPT}
    content = {
        "hostile.zip": hostile,
        "encrypted.zip": encrypted(),
        "twice.zip": twice,
        "broken.zip": broken[: len(broken) // 2],
        "no zip.zip": b"<html>404</html>",
        "links.tar": tar_of_kinds(tars),
        "packed.tar.gz": tar_of_kinds(tars, "w:gz"),
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
    content, members = hostile_archives()
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
