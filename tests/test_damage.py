"""A folder that nobody has looked at: whatever lies in it is kept or accounted for, and harms nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import packed
from conftest import Project
from damaged_pictures import KEPT, fresh
from folders import add, manifest
from pictures import encoded, noise, photograph
from PIL import Image
from planting import matches, outcome, plant

from aigc_tasks.acquire import raw
from aigc_tasks.clean.report import group

pytestmark = pytest.mark.slow


def files_below(place: Path) -> set[str]:
    return {f"{folder}/{name}" for folder, folders, files in os.walk(place) for name in [*folders, *files]}


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


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_of_large_members_does_not_fill_the_memory(project: Project, tmp_path: Path, kind: str) -> None:
    large, allowed = full(200), full(60)
    packed(tmp_path / f"small/a.{kind}", {"1.png": encoded(fresh())})
    members = {f"{n:02d}.png": large for n in range(4)} | {f"{n:02d}.png": allowed for n in range(4, 12)}
    packed(tmp_path / f"large/a.{kind}", members)
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
        packed(tmp_path / kind / f"a.{kind}", members)
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
