"""What goes for Parquet files and WebDataset shards alike: damaged ones, links, and a place without any."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from archives import packed
from listing import listed
from shards import hugging_face, sample
from web_server import served

from aigc_tasks import acquire
from aigc_tasks.acquire import intake, raw
from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_damaged_shard_is_one_entry_and_removes_nothing(tmp_path: Path, kind: str) -> None:
    ending, words = ("parquet", "not a whole Parquet file") if kind == "parquet" else ("tar", "not a whole archive")
    place = tmp_path / "set"
    place.mkdir()
    for number in range(3):
        if kind == "parquet":
            hugging_face(place / f"{number}.parquet", 4, 4 * number)
        else:
            packed(place / f"{number}.tar", {k: v for n in range(4) for k, v in sample(4 * number + n, n % 2).items()})
    source = acquire.source(kind)(kind=kind, source=str(place))
    first = (place / f"0.{ending}").read_bytes()
    (place / f"0.{ending}").write_bytes(b"x" * 3000)
    said = intake.take_in(source, tmp_path / "raw", tmp_path / "stamps")
    assert said == "9 entries: 9 added, 0 changed, 0 removed; 8 read"
    index = raw.index(tmp_path / "raw").set_index("id")
    assert str(index.loc[f"0.{ending}", "flaw"]).startswith(f"unreadable shard ({words}")
    assert index["label"].drop(f"0.{ending}").notna().all()  # the first shard that can be read says that there are any
    (place / f"0.{ending}").write_bytes(first)
    assert intake.take_in(source, tmp_path / "raw", tmp_path / "stamps").startswith(
        "12 entries: 4 added, 0 changed, 1 rem"
    )
    for spoiled in (b"x" * 3000, first[: len(first) // 2 + 700]):
        (place / f"0.{ending}").write_bytes(spoiled)
        with pytest.raises(UserError, match=rf"raw: 0.{ending}: .* would count as removed; make it readable") as error:
            intake.take_in(source, tmp_path / "raw", tmp_path / "stamps")
        assert "\n" not in str(error.value)
    for number in range(3):
        (place / f"{number}.{ending}").write_bytes(b"x" * 3000)
    with pytest.raises(UserError, match=rf"0.{ending}: {words}.*; replace it, or move it out of the source"):
        listed(tmp_path, kind, source=str(place))
    with served(place) as (url, _), pytest.raises(UserError, match=rf"^{url}/0.{ending}: {words}"):
        listed(tmp_path, kind, source=url)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_what_is_no_file_of_a_folder_of_shards_is_accounted_for(tmp_path: Path, kind: str) -> None:
    ending = {"parquet": "parquet", "webdataset": "tar"}[kind]
    place, good = tmp_path / "set", tmp_path / f"good.{ending}"
    (place / "in").mkdir(parents=True)
    if kind == "parquet":
        hugging_face(good, 4)
    else:
        packed(good, sample(0, "cat"))
    shutil.copy(good, place / f"in/a.{ending}")
    (place / f"link.{ending}").symlink_to(f"in/a.{ending}")
    (place / f"out.{ending}").symlink_to(good)
    (place / "away").symlink_to(tmp_path)
    os.mkfifo(place / f"pipe.{ending}")
    for source in (str(place), place.as_uri()):
        entries = listed(tmp_path, kind, source=source)
        away = "a link that leads out of the folder, to a folder or nowhere"
        assert {entry.id: entry.flaw for entry in entries if entry.flaw} == {
            f"out.{ending}": away,
            "away": away,
            f"pipe.{ending}": "not a regular file",
        }
        assert {entry.source for entry in entries if not entry.flaw} == {f"in/a.{ending}", f"link.{ending}"}
    with pytest.raises(UserError, match=rf"pipe.{ending}: not a regular file; replace it"):
        listed(tmp_path, kind, source=str(place / f"pipe.{ending}"))


def test_a_source_without_shards_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    for kind in ("parquet", "webdataset"):
        for source, message in (
            (tmp_path, "holds no file that ends in"),
            (tmp_path / "missing", "no such folder or file; set `source`"),
            (tmp_path / "{1..9}.tar", "1.tar: no such folder or file"),
            (tmp_path / "{1..999}{1..999}", "stands for more than 100,000 files"),
        ):
            with pytest.raises(UserError) as error:
                listed(tmp_path, kind, source=str(source))
            assert message in str(error.value)
            assert "\n" not in str(error.value)
