"""Archives, whole, damaged and hostile: every member is read where it lies, or accounted for."""

from __future__ import annotations

import copy
import gzip
import io
import stat
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from archives import fill, packed, packing
from folders import TREE, fetched, flaws
from hypothesis import example, given, settings
from hypothesis import strategies as st
from listing import listed
from pictures import encoded, noise
from web_server import served

from aigc_tasks.errors import UserError


@pytest.mark.parametrize("name", ["pics.zip", "pics.tar", "pics.tar.gz", "pics.TGZ", "pics.tar.bz2"])
def test_an_archive_is_read_where_it_lies(tmp_path: Path, name: str) -> None:
    content = {f"./{name}": data for name, data in reversed(TREE.items())}
    path = packed(tmp_path / name, content)
    rows = fetched(path, tmp_path / "data")
    order = sorted(TREE) if name.endswith("zip") else list(reversed(TREE))  # a tar is read as it lies
    assert [row.id for row in rows] == [f"pics/{name}" for name in order]
    assert {(row.source, row.flaw, row.split) for row in rows} == {(name, None, None)}
    for row in rows:
        key = row.id.removeprefix("pics/")
        assert (row.label, row.content) == (key.split("/")[0], TREE[key])
    assert [path.name for path in (tmp_path / "data/work").iterdir()] == ["stamps.parquet"]


def test_archives_and_loose_pictures_lie_side_by_side(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", {"cat/1.png": encoded(noise(1)), "notes.txt": b"x", ".hidden/2.png": b"x"})
    packed(place / "test.zip", {"cat/1.png": encoded(noise(2)), "__MACOSX/cat/._1.png": b"x"})
    packed(place / "train.tar", {"horse/1.png": encoded(noise(3)), "horse/.1.png": b"x"})
    packed(place / ".old.zip", {"cat/9.png": encoded(noise(4))})
    packed(place / "more/test.tgz", {"cow/1.png": encoded(noise(5))})
    found = [row[:4] for row in fetched(place, tmp_path / "data")]
    assert found == [
        ("cat/1.png", "", "cat", None),
        ("more/test/cow/1.png", "more/test.tgz", "cow", "test"),
        ("test/cat/1.png", "test.zip", "cat", "test"),
        ("train/horse/1.png", "train.tar", "horse", "train"),
    ]


def test_archives_of_other_kinds_are_called_so(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", {f"{label}/1.png": encoded(noise(n)) for n, label in enumerate(("cat", "dog"))})
    others = ("more.tar.xz", "more.TXZ", "cat/more.tar.zst", "more.7z", "dog/more.rar")
    fill(place, dict.fromkeys(others, b"x" * 1000))
    packed(place / "horse.zip", {"1.png": encoded(noise(2)), "2.tar.xz": b"x"})
    said = "unreadable archive (only zip, tar, tar.gz, tar.bz2 are read)"
    inner = {"horse/2.tar.xz": "archive within an archive"}
    found = {id: flaw for id, flaw in flaws(fetched(place, tmp_path / "data")).items() if flaw}
    assert found == dict.fromkeys(others, said) | inner
    with served(place) as (url, _):
        entries = listed(tmp_path, "store", source=url)
    assert {entry.id: entry.flaw for entry in entries if entry.flaw} == found


def test_archives_of_one_name_are_told_apart(tmp_path: Path) -> None:
    place = packed(tmp_path / "pics/a.zip", {"1.png": encoded(noise(1))}).parent
    packed(place / "a.tar", {"1.png": encoded(noise(2))})
    packed(place / "b.zip", {"1.png": encoded(noise(3))})
    fill(place, {"b/1.png": encoded(noise(4))})
    rows = fetched(place, tmp_path / "data")
    assert [row.id for row in rows] == ["a.tar/1.png", "a.zip/1.png", "b.zip/1.png", "b/1.png"]
    assert len({row.sha256 for row in rows}) == 4


def test_a_damaged_entry_does_not_stop_the_archive(tmp_path: Path) -> None:
    path = packed(tmp_path / "pics.zip", {f"{seed}.png": encoded(noise(seed)) for seed in range(4)})
    content = bytearray(path.read_bytes())
    content[60:64] = b"\xff" * 4
    path.write_bytes(content)
    rows = fetched(path, tmp_path / "data")
    assert [row.flaw is None for row in rows] == [False, True, True, True]
    assert str(rows[0].flaw).startswith("unreadable (")
    assert (rows[0].content, rows[0].sha256) == (None, "")


HOSTILE = {"../../up.png": "%2E%2E/%2E%2E/up.png", "/root.png": "root.png", "c/../a.png": "c/%2E%2E/a.png"}


@pytest.mark.parametrize("name", ["pics.zip", "pics.tar", "pics.tgz"])
def test_members_that_point_outside_have_a_flaw(tmp_path: Path, name: str) -> None:
    content = dict.fromkeys([*HOSTILE, "good.png"], encoded(noise(1)))
    path = packed(tmp_path / "in" / name, content)
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
    path = packed(tmp_path / name, content)
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
        path = packed(Path(scratch, name), content)
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
