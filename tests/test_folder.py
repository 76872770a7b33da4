"""Any folder of images: what is read from it, how it is labelled and divided, and how the images become of one size."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, Project
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML

from aigc_tasks import layout, recipe
from aigc_tasks.acquire import folder, raw
from aigc_tasks.acquire.__main__ import acquire
from aigc_tasks.acquire.intake import take_in
from aigc_tasks.clean import arrays
from aigc_tasks.clean.cleaning import clean
from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image

SIZE = (12, 10)  # width and height: not a square, so that a confusion of the two is seen


def noise(seed: int, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture that no other seed gives."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def files(place: Path, content: dict[str, bytes]) -> Path:
    """A folder with these files in it."""
    for name, data in content.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def packing(name: str) -> Any:
    """The mode in which tarfile writes it."""
    return {".tar": "w", ".bz2": "w:bz2"}.get(Path(name).suffix, "w:gz")


def tarred(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, packing(path.name)) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def fetched(place: Path, data: Path, labels: bool | str | None = None, largest: int = 64) -> list[raw.Row]:
    """What is brought from ``place``."""
    shutil.rmtree(data, ignore_errors=True)
    source = folder.Source(kind="folder", source=str(place), labels=labels, largest=largest)
    take_in(source, data / "raw/pics", data / "work")
    return [row for chunk in raw.chunks(data / "raw/pics") for row in raw.read(data / "raw/pics", chunk)]


def flaws(rows: list[raw.Row]) -> dict[str, str | None]:
    return {row.id: row.flaw for row in rows}


def pixels(picture: Image.Image) -> np.ndarray:
    """C×H×W."""
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.fixture
def cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[arrays.Clean, pd.DataFrame]]:
    """Runs the two stages on a place; returns the data set and its manifest by id."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")

    def run(place: Path, labels: bool | None = None, **knobs: Any) -> tuple[arrays.Clean, pd.DataFrame]:
        source = {"kind": "folder", "source": str(place)} | ({} if labels is None else {"labels": labels})
        table = {"datasets": {"pics": {"acquire": source, "clean": knobs, "features": {}}}, "recipes": {}}
        YAML().dump(table, layout.PARAMS)
        acquire("pics")
        clean("pics")
        place = layout.clean("pics")
        return arrays.load(place), pd.read_parquet(place / "manifest.parquet").set_index("id")

    return run


GREY, COLOUR = noise(1, "L"), noise(2)


def test_every_file_is_brought_whatever_it_is(tmp_path: Path) -> None:
    content = {
        "a.png": encoded(GREY),
        "b/empty.gif": b"",
        "b/page.jpg": b"<html>",
        "b/program": b"\x7fELF",
        "c.csv": b"x,y",
    }
    hidden = {".x/a.png": b"", "b/.a.png": b"", "__MACOSX/._a.png": b"", "Thumbs.db": b"", "b/desktop.ini": b""}
    notes = {"README.md": b"", "about.TXT": b"", "coco.json": b"{}"}
    rows = fetched(files(tmp_path / "pics", content | hidden | notes), tmp_path / "data")
    assert {row.id: row.content for row in rows} == content
    assert {(row.label, row.split, row.source, row.flaw, row.gone) for row in rows} == {(None, None, "", None, False)}
    for row in rows:
        assert row.sha256 == hashlib.sha256(content[row.id]).hexdigest()


def test_a_damaged_entry_does_not_stop_the_archive(tmp_path: Path) -> None:
    path = zipped(tmp_path / "pics.zip", {f"{seed}.png": encoded(noise(seed)) for seed in range(4)})
    content = bytearray(path.read_bytes())
    content[60:64] = b"\xff" * 4
    path.write_bytes(content)
    rows = fetched(path, tmp_path / "data")
    assert [row.flaw is None for row in rows] == [False, True, True, True]
    assert str(rows[0].flaw).startswith("unreadable (")
    assert (rows[0].content, rows[0].sha256) == (None, "")


TREE = {f"{name}/{seed}.png": encoded(noise(seed + 100 * len(name))) for name in ("cat", "horse") for seed in range(20)}


def test_class_folders_are_labels(tmp_path: Path) -> None:
    rows = fetched(files(tmp_path / "pics", TREE | {"stray.png": encoded(noise(7))}), tmp_path / "data")
    assert {row.id: row.label for row in rows} == {name: name.split("/")[0] for name in TREE} | {"stray.png": None}
    assert {id: flaw for id, flaw in flaws(rows).items() if flaw} == {"stray.png": "in no class folder"}


def test_two_folders_beside_many_pictures_are_no_classes(tmp_path: Path) -> None:
    flat = {f"{seed}.png": encoded(noise(seed)) for seed in range(30)}
    few = {"new/a.png": encoded(noise(40)), "old/b.png": encoded(noise(41))}
    rows = fetched(files(tmp_path / "pics", flat | few), tmp_path / "data")
    assert {(row.label, row.flaw) for row in rows} == {(None, None)}


def test_without_class_folders_there_are_no_labels(tmp_path: Path) -> None:
    flat = {name.replace("/", "-"): data for name, data in TREE.items()}
    one_folder = {f"faces/{name}": data for name, data in flat.items()}
    cases = [(flat, None, None), (one_folder, None, None), (one_folder, True, "faces"), (TREE, False, None)]
    for number, (content, labels, label) in enumerate(cases):
        samples = fetched(files(tmp_path / str(number), content), tmp_path / "data", labels)
        assert {(sample.label, sample.flaw) for sample in samples} == {(label, None)}
        assert len(samples) == len(TREE)


@pytest.mark.parametrize("name", ["pics.zip", "pics.tar", "pics.tar.gz", "pics.TGZ", "pics.tar.bz2"])
def test_an_archive_is_read_where_it_lies(tmp_path: Path, name: str) -> None:
    content = {f"./{name}": data for name, data in reversed(TREE.items())}
    path = (zipped if name.endswith("zip") else tarred)(tmp_path / name, content)
    rows = fetched(path, tmp_path / "data")
    order = sorted(TREE) if name.endswith("zip") else list(reversed(TREE))  # a tar is read as it lies
    assert [row.id for row in rows] == [f"pics/{name}" for name in order]
    assert {(row.source, row.flaw, row.split) for row in rows} == {(name, None, None)}
    for row in rows:
        key = row.id.removeprefix("pics/")
        assert (row.label, row.content) == (key.split("/")[0], TREE[key])
    assert [path.name for path in (tmp_path / "data/work").iterdir()] == ["stamps.parquet"]


def test_archives_and_loose_pictures_lie_side_by_side(tmp_path: Path) -> None:
    place = files(tmp_path / "pics", {"cat/1.png": encoded(noise(1)), "notes.txt": b"x", ".hidden/2.png": b"x"})
    zipped(place / "test.zip", {"cat/1.png": encoded(noise(2)), "__MACOSX/cat/._1.png": b"x"})
    tarred(place / "train.tar", {"horse/1.png": encoded(noise(3)), "horse/.1.png": b"x"})
    zipped(place / ".old.zip", {"cat/9.png": encoded(noise(4))})
    tarred(place / "more/test.tgz", {"cow/1.png": encoded(noise(5))})
    found = [row[:4] for row in fetched(place, tmp_path / "data")]
    assert found == [
        ("cat/1.png", "", "cat", None),
        ("more/test/cow/1.png", "more/test.tgz", "cow", "test"),
        ("test/cat/1.png", "test.zip", "cat", "test"),
        ("train/horse/1.png", "train.tar", "horse", "train"),
    ]


def test_archives_of_one_name_are_told_apart(tmp_path: Path) -> None:
    place = zipped(tmp_path / "pics/a.zip", {"1.png": encoded(noise(1))}).parent
    tarred(place / "a.tar", {"1.png": encoded(noise(2))})
    zipped(place / "b.zip", {"1.png": encoded(noise(3))})
    files(place, {"b/1.png": encoded(noise(4))})
    rows = fetched(place, tmp_path / "data")
    assert [row.id for row in rows] == ["a.tar/1.png", "a.zip/1.png", "b.zip/1.png", "b/1.png"]
    assert len({row.sha256 for row in rows}) == 4


def test_a_sources_own_splits_stay_and_are_no_classes(tmp_path: Path, cleaned: Any) -> None:
    names = {"Training": "train", "valid": "val", "testing": "test"}
    content = {
        f"{split}/{label}/{seed}.png": encoded(noise(seed + 50 * number + 1000 * len(label)))
        for number, split in enumerate(names)
        for label in ("cat", "horse")
        for seed in range(10)
    }
    content["Training/cat/twin.png"] = content["valid/cat/3.png"]
    data, manifest = cleaned(files(tmp_path / "pics", content))
    assert data.classes == ["cat", "horse"]
    for name, split in names.items():
        kept = manifest[manifest["split"] == split]
        assert len(kept) == 20
        assert {Path(sample).parts[0] for sample in kept.index} == {name}
    assert manifest.loc["Training/cat/twin.png", "reason"] == "duplicate of valid/cat/3.png"


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, cleaned: Any) -> None:
    written = []
    for number, names in enumerate((list(TREE), list(reversed(TREE)))):
        shutil.rmtree(tmp_path / "pics", ignore_errors=True)
        place = files(tmp_path / "pics", {name: TREE[name] for name in names})
        for name in names[::3]:
            os.utime(place / name, (number, number))
            (place / name).chmod(0o600 + number)
        shutil.rmtree(layout.LOCAL, ignore_errors=True)
        cleaned(place)
        outputs = [*layout.raw("pics").iterdir(), *layout.clean("pics").iterdir()]
        written.append({file.name: file.read_bytes() for file in outputs})
    assert written[0] == written[1]


def test_links_are_followed_inside_the_source_alone(tmp_path: Path) -> None:
    outside = files(tmp_path / "outside", {"secret.png": encoded(noise(1))})
    place = files(tmp_path / "pics", {"a.png": encoded(noise(2))})
    (place / "inside.png").symlink_to(place / "a.png")
    links = {"out.png": outside / "secret.png", "broken.png": "nowhere.png", "folder": outside, "loop": place}
    links |= {"self.png": "self.png", "archive.zip": zipped(tmp_path / "x.zip", {"a.png": b""}), "up.png": "../x.zip"}
    for name, target in links.items():
        (place / name).symlink_to(target)
    found = flaws(fetched(place, tmp_path / "data"))
    flaw = "a link that leads out of the folder, to a folder or nowhere"
    assert found == {"a.png": None, "inside.png": None} | dict.fromkeys(links, flaw)


def test_what_is_no_file_or_cannot_be_opened_is_a_flaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"a.png": bytes(1 << 20), "large.png": bytes((1 << 20) + 1), "shut/b.png": b"", "no.png": b"x"}
    place = files(tmp_path / "pics", content)
    os.mkfifo(place / "fifo.png")
    deep = place
    for _ in range(1200):  # more folders than Python calls
        deep = deep / "d"
        deep.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(place)
        listener.bind("socket.png")
        monkeypatch.chdir(tmp_path)
    expected = {"a.png": None, "large.png": "larger than 1 MiB", "fifo.png": "not a regular file"}
    expected |= {"socket.png": "not a regular file", "shut/b.png": None, "no.png": None}
    if os.geteuid():  # root may read everything
        (place / "shut").chmod(0)
        (place / "no.png").chmod(0)
        del expected["shut/b.png"]
        expected |= {"shut": "unreadable folder (Permission denied)", "no.png": "unreadable (Permission denied)"}
    try:
        assert flaws(fetched(place, tmp_path / "data", largest=1)) == expected
    finally:
        (place / "shut").chmod(0o700)
        subprocess.check_call(["rm", "-r", place / "d"])  # pytest's own cleaning up calls itself too often


HOSTILE = {"../../up.png": "%2E%2E/%2E%2E/up.png", "/root.png": "root.png", "c/../a.png": "c/%2E%2E/a.png"}


@pytest.mark.parametrize("name", ["pics.zip", "pics.tar", "pics.tgz"])
def test_members_that_point_outside_have_a_flaw(tmp_path: Path, name: str) -> None:
    content = dict.fromkeys([*HOSTILE, "good.png"], encoded(noise(1)))
    path = (zipped if name.endswith("zip") else tarred)(tmp_path / "in" / name, content)
    found = flaws(fetched(path, tmp_path / "data"))
    expected = {f"pics/{id}": "points out of its archive" for id in HOSTILE.values()}
    assert found == expected | {"pics/good.png": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "in"]


def test_hostile_members_of_a_zip_have_a_flaw(tmp_path: Path) -> None:
    path = tmp_path / "pics.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", encoded(noise(1)))
        archive.writestr("cat\\windows.png", b"x")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.png", bytes(20 << 20))
        archive.writestr("secret.png", b"x")
        archive.writestr("large.png", b"x")
        archive.writestr("liar.png", b"y" * 5000)
        secret, large, liar = archive.filelist[-3:]
        secret.flag_bits |= 1
        large.file_size = (64 << 20) + 1
        liar.file_size = 10
        twin = copy.copy(archive.filelist[0])
        twin.filename = "twin.png"
        archive.filelist.append(twin)
    found = flaws(fetched(path, tmp_path / "data", labels=False))
    assert str(found.pop("pics/bomb.png")).startswith("bomb (unpacks to 1,0")
    assert str(found.pop("pics/liar.png")).startswith("unreadable (")
    assert found == {
        "pics/cat/windows.png": None,
        "pics/good.png": "shares its bytes with another",
        "pics/large.png": "larger than 64 MiB",
        "pics/link.png": "a link",
        "pics/secret.png": "encrypted",
        "pics/twin.png": "shares its bytes with another",
    }


@pytest.mark.parametrize("name", ["pics.tar", "pics.tgz", "pics.tar.bz2"])
def test_hostile_members_of_a_tar_have_a_flaw(tmp_path: Path, name: str) -> None:
    kinds = {"hard.png": tarfile.LNKTYPE, "soft.png": tarfile.SYMTYPE, "fifo.png": tarfile.FIFOTYPE}
    kinds |= {"device.png": tarfile.CHRTYPE, "sparse.png": tarfile.GNUTYPE_SPARSE}
    with tarfile.open(tmp_path / name, packing(name)) as archive:
        for member in ("good.png", *kinds, "good.png"):
            header = tarfile.TarInfo(member)
            header.type, header.linkname = kinds.get(member, tarfile.REGTYPE), "/etc/passwd"
            header.size = 600 if member == "good.png" else 0
            archive.addfile(header, io.BytesIO(b"x" * 600))
    found = flaws(fetched(tmp_path / name, tmp_path / "data"))
    other = dict.fromkeys(("pics/fifo.png", "pics/device.png", "pics/sparse.png"), "not a regular file")
    assert found == other | {
        "pics/good.png": None,
        "pics/hard.png": "a link",
        "pics/soft.png": "a link",
        "pics/good.png (2)": "has the name of another",
    }


def test_a_header_that_fills_the_memory_ends_its_archive(tmp_path: Path) -> None:
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    good = tarfile.TarInfo("good.png")
    good.size = 600
    content = good.tobuf() + b"x" * 600 + bytes(424) + header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16)
    (tmp_path / "pics.tgz").write_bytes(gzip.compress(content))
    found = flaws(fetched(tmp_path / "pics.tgz", tmp_path / "data"))
    assert found == {"pics/good.png": None, "pics/(the rest)": "archive damaged (after 1 members)"}


@pytest.mark.parametrize("name", ["pics.tar", "pics.tgz"])
def test_what_can_be_read_of_a_damaged_tar_is_taken(tmp_path: Path, name: str) -> None:
    content = {f"{seed:02d}.png": encoded(noise(seed, size=(40, 40))) for seed in range(20)}
    path = tarred(tmp_path / name, content)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    rows = fetched(path, tmp_path / "data")
    good = [row for row in rows if row.flaw is None]
    assert 5 < len(good) < 15
    assert all(row.content == content[row.id.removeprefix("pics/")] for row in good)
    assert str(rows[-1].flaw).startswith("archive damaged (after ")
    assert (rows[-1].id, len(rows) - len(good)) == ("pics/(the rest)", 2 if name == "pics.tar" else 1)
    if name == "pics.tar":
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            at = archive.getmembers()[9].offset
        path.write_bytes(whole[:at] + b"x" * 512 + whole[at + 512 :])
    else:
        path.write_bytes(whole[:-6] + bytes(6))  # where gzip's checksum stands
    assert flaws(fetched(path, tmp_path / "data"))["pics/(the rest)"] is not None


damage = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "copy", "zero"]), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["pics.zip", "pics.tar", "pics.tgz", "pics.tar.bz2"]), damage)
@example("pics.zip", [(0.4984334318784184, "flip", 0)])  # a member's name begins with NUL, and so is empty
def test_no_damage_to_an_archive_is_more_than_flaws_or_one_clear_line(
    name: str, damage: list[tuple[float, str, int]]
) -> None:
    content = {f"cat/{n}.png": bytes([n]) * 200 * n for n in range(6)} | {"../x.png": b"x", "ü" * 120: b"y"}
    with tempfile.TemporaryDirectory() as scratch:
        path = (zipped if name.endswith("zip") else tarred)(Path(scratch, name), content)
        data = bytearray(path.read_bytes())
        for share, how, value in damage:
            at = int(share * (len(data) - 1)) if data else 0
            if how == "cut":
                del data[at : at + value]
            elif how == "copy":
                data[at:at] = data[at : at + value]
            else:
                data[at : at + (1 if how == "flip" else value)] = bytes([value if how == "flip" else 0])
        path.write_bytes(data)
        message, rows = "", []
        try:
            rows = fetched(path, Path(scratch, "data"))
        except UserError as error:
            message = str(error)
        assert "\n" not in message
        assert rows or name in message
        assert len({row.id for row in rows}) == len(rows) < 100
        for row in rows:
            assert row.id.startswith("pics/")
            assert not {"", ".", ".."} & set(row.id.split("/"))
            assert (row.content is None) == (row.flaw is not None)


def test_a_csv_of_labels_is_none_of_the_pictures(tmp_path: Path) -> None:
    table = "file,label,split\na.png,cat,test\nb/c.png,horse,\n"
    place = files(tmp_path / "pics", {"a.png": b"1", "b/c.png": b"2", "d.png": b"3", "labels.csv": table.encode()})
    rows = fetched(place, tmp_path / "data", labels=str(place / "labels.csv"))
    assert [(row.id, row.label, row.split, row.flaw) for row in rows] == [
        ("a.png", "cat", "test", None),
        ("b/c.png", "horse", None, None),
        ("d.png", None, None, "no label in labels.csv"),
    ]


def test_a_csv_labels_what_it_names_and_nothing_of_the_same_name(tmp_path: Path) -> None:
    lines = b"file,label\n0.png,cat\n1.png,horse\n"
    names = ["0.png", "a/0.png", "a/1.png", "b/1.png"]
    place = files(tmp_path / "pics", {name: name.encode() for name in names} | {"labels.csv": lines})
    rows = fetched(place, tmp_path / "data", labels=str(place / "labels.csv"))
    several = "one line of labels.csv fits several pictures: write whole paths there"
    assert [(row.id, row.label, row.flaw) for row in rows] == [
        ("0.png", "cat", None),
        ("a/0.png", None, "no label in labels.csv"),
        ("a/1.png", None, several),
        ("b/1.png", None, several),
    ]


def test_lines_that_agree_on_a_name_and_copies_in_an_archive_are_labelled(tmp_path: Path) -> None:
    lines = b"file,label\n/home/u/train/cat/0.png,cat\n/home/u/val/cat/0.png,cat\n1.png,horse\n2.png,dog\n"
    place = files(
        tmp_path / "pics", {"train/cat/0.png": b"a", "val/cat/0.png": b"b", "labels.csv": lines, "c/2.png": b"c"}
    )
    (place / "b").mkdir()
    (place / "b/2.png").symlink_to("/etc/hostname")
    with zipfile.ZipFile(place / "pics.zip", "w") as archive:
        archive.writestr("1.png", b"d")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("1.png", b"e")
    rows = fetched(place, tmp_path / "data", labels=str(place / "labels.csv"))
    assert {row.id: row.label for row in rows if row.flaw is None} == {
        "c/2.png": "dog", "pics/1.png": "horse", "train/cat/0.png": "cat", "val/cat/0.png": "cat",
    }  # fmt: skip


def test_names_that_are_not_unicode_are_spelled_out(tmp_path: Path) -> None:
    place = files(tmp_path / "pics", {"a.png": b"a"})
    Path(os.fsdecode(bytes(place) + b"/caf\xe9.png")).write_bytes(b"b")
    Path(os.fsdecode(bytes(place) + b"/d\xe9")).mkdir()
    Path(os.fsdecode(bytes(place) + b"/d\xe9/1.png")).write_bytes(b"c")
    rows = fetched(place, tmp_path / "data")
    assert {row.id: row.content for row in rows} == {"a.png": b"a", "caf\\xe9.png": b"b", "d\\xe9/1.png": b"c"}


WRONG = {
    "missing": (lambda place: None, "no such folder or file; set `source` in params.yaml"),
    "a text": (lambda place: place.write_text("x"), "neither a folder nor an archive; set `source` in params.yaml"),
    "empty": (lambda place: place.mkdir(), "holds no pictures"),
    "hidden": (lambda place: files(place, {".a.png": b"x", "notes.txt": b"y"}), "holds no pictures"),
    "empty.zip": (lambda place: zipped(place, {}), "holds no pictures"),
    "broken.zip": (lambda place: place.write_bytes(b"PK"), "broken.zip: not a whole archive; replace it, or move it"),
    "broken.tar": (lambda place: place.write_bytes(b"x" * 9), "broken.tar: not a whole archive"),
    "page.tgz": (lambda place: place.write_text("<html>"), "page.tgz: not a whole archive"),
    "empty.tar": (lambda place: place.write_bytes(b""), "empty.tar: not a whole archive"),
    "one": (lambda place: zipped(place / "a.zip", {}).write_bytes(b"PK"), "a.zip: not a whole archive"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_source_is_one_clear_line(tmp_path: Path, name: str) -> None:
    make, message = WRONG[name]
    make(tmp_path / name)  # type: ignore[no-untyped-call]
    with pytest.raises(UserError) as error:
        fetched(tmp_path / name, tmp_path / "data")
    assert name in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_are_not_there_are_one_clear_line(tmp_path: Path) -> None:
    place = files(tmp_path / "pics", {"a.png": encoded(GREY), "train/b.png": encoded(COLOUR)})
    with pytest.raises(UserError, match=r"`labels` is true in params\.yaml, but no picture lies in a class folder"):
        fetched(place, tmp_path / "data", labels=True)


def mixed(count: int, odd: int) -> dict[str, bytes]:
    """Pictures of one size, the last of them of others."""
    sizes = [SIZE] * (count - odd) + [(30 + number, 20) for number in range(odd)]
    return {f"{number:02d}.png": encoded(noise(number, size=size)) for number, size in enumerate(sizes)}


def test_images_of_another_size_are_dropped_while_they_are_few(tmp_path: Path, cleaned: Any) -> None:
    data, manifest = cleaned(files(tmp_path / "pics", mixed(20, 3)))
    assert data.shape == (3, 10, 12)
    assert list(manifest["reason"].dropna()) == [f"size differs ({30 + number}×20)" for number in range(3)]


def test_images_of_many_sizes_ask_for_one(tmp_path: Path, cleaned: Any) -> None:
    with pytest.raises(UserError, match=r"^params.yaml: datasets.pics.clean.size: 11 of 20 .* set it") as error:
        cleaned(files(tmp_path / "pics", mixed(20, 11)))
    assert "\n" not in str(error.value)
    data, manifest = cleaned(tmp_path / "pics", size=16)
    assert data.shape == (3, 16, 16)
    assert manifest["reason"].isna().all()
    again, first = cleaned(tmp_path / "pics", size=8)
    assert again.shape == (3, 8, 8)
    assert (first["split"] == manifest["split"]).all()


def test_grey_and_colour_together_are_colour(tmp_path: Path, cleaned: Any) -> None:
    greys = {f"{seed:02d}.png": encoded(noise(seed, "L")) for seed in range(20)}
    blank = {"blank.png": encoded(Image.new("RGB", SIZE))}
    place = files(tmp_path / "grey", greys | blank)
    data, manifest = cleaned(place)
    assert data.shape == (1, 10, 12)  # a blank one does not count
    assert manifest.loc["blank.png", "reason"] == "blank"
    files(place, {"colour.png": encoded(noise(99))})
    data, manifest = cleaned(place)
    assert data.shape == (3, 10, 12)
    assert manifest["reason"].notna().sum() == 1
    row = manifest.loc["03.png"]
    assert (getattr(data, row["split"]).images[row["row"]] == pixels(noise(3, "L"))).all()
    data, manifest = cleaned(place, colour="grey")
    assert data.shape == (1, 10, 12)
    row = manifest.loc["colour.png"]
    assert (getattr(data, row["split"]).images[row["row"]] == pixels(noise(99).convert("L"))).all()
    assert cleaned(files(tmp_path / "other", greys), colour="rgb")[0].shape == (3, 10, 12)


def test_a_fitted_image_is_the_smoothed_middle_of_it() -> None:
    whole = pixels(noise(1, size=(16, 16)))
    assert image.fitted(whole, 16) is whole
    squares = np.where(np.indices((64, 64)).sum(0) % 2, 255, 0).astype(np.uint8)[None]
    assert np.abs(image.fitted(squares, 16)[:, 2:-2, 2:-2].astype(int) - 127).max() <= 2  # no moiré
    picture = noise(1, size=(60, 20))
    reduced = picture.resize((30, 10), Image.Resampling.LANCZOS)
    wide = pixels(picture)
    assert (image.fitted(wide, 10) == pixels(reduced)[:, :, 10:20]).all()
    assert (image.fitted(wide.transpose(0, 2, 1), 10) == pixels(reduced)[:, :, 10:20].transpose(0, 2, 1)).all()
    assert image.fitted(wide[:1, :1], 32).shape == (1, 32, 32)


OFFER = {
    "datasets": {"pics": {"acquire": {"kind": "folder"}, "clean": {"size": 16}, "features": {}}},
    "recipes": {
        "pics-gan": {"dataset": "pics", "family": "gan", "network": "resnet"}
        | {section: {} for section in ("model", "train", "postprocess", "evaluate")}
    },
}


def offered(project: Project) -> None:
    """A ready-made recipe whose data only its user has, and a second one of the same data set."""
    yaml = YAML()
    yaml.dump(OFFER, project.path / "recipes/pics-gan.yaml")
    second = {"datasets": OFFER["datasets"], "recipes": {"pics-other": OFFER["recipes"]["pics-gan"]}}
    yaml.dump(second, project.path / "recipes/pics-other.yaml")


def refused(project: Project, *command: str) -> str:
    """The one line with which the command ends."""
    before = (project.path / "params.yaml").read_bytes()
    done = project.run("aigc", *command)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert (project.path / "params.yaml").read_bytes() == before
    return done.stderr


@pytest.mark.slow
def test_a_recipe_is_taken_with_the_place_of_its_data(here: Project, tmp_path: Path) -> None:
    offered(here)
    assert "say it: aigc add pics-gan --source PLACE" in refused(here, "add", "pics-gan")
    here.check("aigc", "add", "mnist-mlpgan", "--source", "~/mnist")
    assert recipe.dataset("mnist").acquire.model_dump()["source"] == "~/mnist"
    files(tmp_path / "place", TREE)
    assert "datasets.pics" in here.check("aigc", "add", "pics-gan", "--source", "../place")
    assert recipe.dataset("pics").acquire.model_dump()["source"] == "../place"
    assert "in use already as ../place" in refused(here, "add", "pics-other", "--source", "elsewhere")
    assert here.check("aigc", "add", "pics-other").startswith("params.yaml: added recipes.pics-other;")
    here.check("dvc", "repro", "clean@pics")
    assert arrays.load(layout.clean("pics")).shape == (3, 16, 16)


def test_a_place_is_refused_where_the_data_set_has_none(here: Project) -> None:
    here.edit(lambda params: params.update(recipes={}, datasets={}))
    assert "is of kind digits, which has no source" in refused(here, "add", "digits-gan", "--source", "x")


def test_a_broken_offer_is_named_with_its_file(here: Project) -> None:
    offered(here)
    path = here.path / "recipes/pics-gan.yaml"
    path.write_text(path.read_text().replace("size: 16", "size: 1"))
    message = refused(here, "add", "pics-gan", "--source", "x")
    assert message.startswith("error: recipes/pics-gan.yaml: datasets.pics.clean.size: must be greater than or equal")


def shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is missing: the real files are needed")
    return SHARED / name


def test_real_faces_of_forty_people(cleaned: Any) -> None:
    data, manifest = cleaned(shared("orl-faces"), size=32, colour="grey")
    assert data.shape == (1, 32, 32)
    assert len(data.classes) == 40
    reasons = manifest["reason"].dropna().str.replace(r" of .*", "", regex=True).value_counts()
    print(reasons)
    assert reasons["not a picture"] == 2
    assert len(manifest) == 402
    assert manifest.loc["orl-faces/orl-faces/s7/3.pgm", "label"] == "s7"


@pytest.mark.slow
def test_real_cifar_in_two_archives(tmp_path: Path) -> None:
    source = folder.Source(kind="folder", source=str(shared("cifar10-jpg")))
    assert take_in(source, tmp_path / "raw/cifar", tmp_path / "work").startswith("60,000 entries: 60,000 added")
    table = raw.index(tmp_path / "raw/cifar")
    assert set(map(tuple, table[["source", "split"]].drop_duplicates().to_numpy())) == {
        ("test.zip", "test"),
        ("train.zip", "train"),
    }
    assert table["label"].value_counts().to_dict() == dict.fromkeys(table["label"].unique(), 6000)
    assert table["flaw"].isna().all()
    assert table.loc[0, "id"] == "test/test/airplane/0000.jpg"
