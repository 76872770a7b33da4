"""What is brought to ``data/raw``: only what is new is read, and neither history nor a kill leaves a trace in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from archives import fill
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from aigc_tasks import acquire
from aigc_tasks.acquire import Entry, folder, raw
from aigc_tasks.acquire.intake import take_in
from aigc_tasks.errors import UserError

READS: list[str] = []


class Source(folder.Source):
    """A folder that writes down what is read of it."""

    stamps: bool = True  # whether it has any

    def entries(self, work: Path) -> Iterator[Entry]:
        for entry in super().entries(work):
            stamp = entry.stamp if self.stamps else None
            yield entry._replace(stamp=stamp, read=entry.read and partial(noted, entry))


def noted(entry: Entry) -> bytes | np.ndarray:
    READS.append(entry.id)
    assert entry.read is not None
    return entry.read()


def taken(place: Path, data: Path, **knobs: Any) -> tuple[str, list[str]]:
    """What is said of an intake into ``data``, and the ids that it read."""
    READS.clear()
    source = Source(kind="folder", source=str(place), **knobs)
    said = take_in(source, data / "raw/pics", data / "work")
    return said, sorted(READS)


def written(data: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((data / "raw/pics").iterdir())}


def numbered(count: int, start: int = 0) -> dict[str, bytes]:
    return {f"{n % 7}/{n:04d}.png": f"picture {n}".encode() for n in range(start, start + count)}


def rows(data: Path) -> list[raw.Row]:
    place = data / "raw/pics"
    return [row for chunk in raw.chunks(place) for row in raw.read(place, chunk)]


def contents(data: Path) -> dict[str, Any]:
    """What the parts hold by id, as a reader puts it together."""
    place, found = data / "raw/pics", {}
    old = raw.superseded(place)
    for chunk in raw.chunks(place):
        for row in raw.read(place, chunk):
            if row.id not in old[chunk.file] and not row.gone:
                assert row.id not in found
                found[row.id] = row.content
    return found


def test_a_hundred_more_files_are_a_hundred_reads(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", numbered(600))
    said, reads = taken(place, tmp_path)
    assert said == "600 entries: 600 added, 0 changed, 0 removed; 600 read"
    before = written(tmp_path)
    fill(place, numbered(100, 600))
    said, reads = taken(place, tmp_path)
    assert said == "700 entries: 100 added, 0 changed, 0 removed; 100 read"
    assert reads == sorted(numbered(100, 600))
    after = written(tmp_path)
    assert {name: after[name] for name in before if name != raw.SOURCE} == {
        name: content for name, content in before.items() if name != raw.SOURCE
    }
    assert contents(tmp_path) == numbered(700)
    assert [version["added"] for version in raw.versions(tmp_path / "raw/pics")] == [600, 100]


def test_nothing_new_leaves_every_byte(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", numbered(20))
    taken(place, tmp_path)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in (tmp_path / "raw/pics").iterdir()}
    assert taken(place, tmp_path)[1] == []
    os.utime(place / "3/0003.png", (1, 1))
    assert taken(place, tmp_path)[1] == ["3/0003.png"]  # read, and found to be the same
    assert taken(place, tmp_path)[1] == []
    shutil.rmtree(tmp_path / "work")
    said, reads = taken(place, tmp_path)
    assert len(reads) == 20  # without stamps there is no other way to know
    assert "0 added, 0 changed, 0 removed" in said
    assert before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in (tmp_path / "raw/pics").iterdir()}


def test_changed_and_removed_files(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", numbered(30))
    taken(place, tmp_path)
    (place / "1/0001.png").unlink()
    fill(place, {"2/0002.png": b"picture X"})  # of the same length
    (place / "3/0003.png").rename(place / "4/0003.png")
    said, reads = taken(place, tmp_path)
    assert said == "29 entries: 1 added, 1 changed, 2 removed; 2 read"
    assert reads == ["2/0002.png", "4/0003.png"]
    expected = numbered(30) | {"2/0002.png": b"picture X", "4/0003.png": b"picture 3"}
    expected = {id: content for id, content in expected.items() if id not in ("1/0001.png", "3/0003.png")}
    assert contents(tmp_path) == expected
    old, new = raw.index(tmp_path / "raw/pics", 1), raw.index(tmp_path / "raw/pics")
    assert list(old["id"]) == sorted(numbered(30))
    assert list(new["id"]) == sorted(expected)
    assert new.set_index("id").loc["4/0003.png", "label"] == "4"
    with pytest.raises(UserError, match="there is no version 3; known are: 1, 2"):
        raw.index(tmp_path / "raw/pics", 3)


def test_an_older_version_brought_back_is_not_mistaken_for_the_newest(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", numbered(10))
    taken(place, tmp_path)
    first = written(tmp_path)
    fill(place, {"2/0002.png": b"another"})
    taken(place, tmp_path)
    second = written(tmp_path)
    shutil.rmtree(tmp_path / "raw/pics")
    fill(tmp_path / "raw/pics", first)
    assert contents(tmp_path)["2/0002.png"] == b"picture 2"
    assert taken(place, tmp_path)[1] == ["2/0002.png"]
    assert written(tmp_path) == second


def test_what_went_into_another_archive_is_counted_and_named(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for packed, ending in (("tar", ".tar"), ("zip", ".zip")):
        shutil.make_archive(str(place / "a"), packed, fill(tmp_path / "a", numbered(30)))
        taken(place, tmp_path)
        (place / f"a{ending}").unlink()
    last, changes = raw.versions(tmp_path / "raw/pics")[-1], raw.last_changes(tmp_path / "raw/pics")
    assert last["version"] == 2
    assert changes is not None
    assert {change: last[change] for change in changes} == {"added": 0, "changed": 30, "removed": 0}
    assert {change: len(ids) for change, ids in changes.items()} == {"added": 0, "changed": 30, "removed": 0}


def test_a_source_that_moved_goes_on_with_the_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken(fill(tmp_path / "pics", numbered(10)), tmp_path)
    (tmp_path / "pics").rename(tmp_path / "other")
    said, _ = taken(tmp_path / "other", tmp_path)
    assert said == "10 entries: 0 added, 0 changed, 0 removed; 10 read"  # stamps are of their source alone
    assert taken(tmp_path / "other", tmp_path)[1] == []
    assert len(raw.versions(tmp_path / "raw/pics")) == 1
    before = written(tmp_path)
    fill(tmp_path / "other", numbered(3, 10))
    said, _ = taken(tmp_path / "other", tmp_path, largest=8)
    assert said == "13 entries: 3 added, 0 changed, 0 removed; 13 read"
    assert (
        "pics: source, largest in params.yaml changed since version 1; the versions go on\n" in capsys.readouterr().out
    )
    assert contents(tmp_path) == numbered(13)
    after = written(tmp_path)
    assert [row.id for row in rows(tmp_path)][10:] == sorted(numbered(3, 10))
    described = raw.described(tmp_path / "raw/pics")
    assert described["source"] == {"kind": "folder", "source": str(tmp_path / "pics")}
    assert "source" not in described["versions"][0]
    assert described["versions"][1]["source"] == described["source"] | {
        "source": str(tmp_path / "other"),
        "largest": 8,
    }
    first = {**described, "versions": described["versions"][:1]}  # as `aigc data log` finds its commit
    assert before[raw.SOURCE] == (json.dumps(first, indent=2) + "\n").encode()
    assert {name: after[name] for name in before if name != raw.SOURCE} == {
        name: content for name, content in before.items() if name != raw.SOURCE
    }
    fill(tmp_path / "other", numbered(1, 13))
    taken(tmp_path / "other", tmp_path, largest=8)
    assert "source" not in raw.versions(tmp_path / "raw/pics")[2]
    assert "changed since" not in capsys.readouterr().out


def test_what_an_older_release_wrote_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = fill(tmp_path / "pics", numbered(3))
    taken(place, tmp_path)
    source = tmp_path / "raw/pics" / raw.SOURCE
    described = json.loads(source.read_text())
    described["source"]["labels"] = None  # it wrote defaults too
    source.write_text(json.dumps(described))
    taken(fill(place, numbered(1, 3)), tmp_path)
    assert len(raw.versions(tmp_path / "raw/pics")) == 2
    assert "pics:" not in capsys.readouterr().out


def test_another_kind_of_source_begins_again_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken(fill(tmp_path / "pics", numbered(10)), tmp_path)
    taken(fill(tmp_path / "pics", numbered(10, 10)), tmp_path)
    assert len(raw.versions(tmp_path / "raw/pics")) == 2
    take_in(Arrays(), tmp_path / "raw/pics", tmp_path / "work")
    said = capsys.readouterr().out
    assert "its source was of kind folder and is of kind arrays: its versions begin again at 1\n" in said
    assert len(raw.versions(tmp_path / "raw/pics")) == 1
    assert sorted(written(tmp_path)) == ["0001-000000.parquet", raw.SOURCE]
    (tmp_path / "raw/pics" / raw.SOURCE).write_text("{")
    take_in(Arrays(), tmp_path / "raw/pics", tmp_path / "work")
    assert "pics: not a whole raw data set: its versions begin again at 1\n" in capsys.readouterr().out


def test_a_corrected_label_is_neither_read_nor_stored_again(tmp_path: Path) -> None:
    big = {f"{n:02d}.png": np.random.default_rng(n).bytes(20_000) for n in range(40)}
    place, table = fill(tmp_path / "pics", big), tmp_path / "labels.csv"
    for version, label in enumerate(("cat", "dog", "owl", "cat")):
        table.write_text("file,label,split\n" + "".join(f"{id},{label if id < '30' else 'cow'},\n" for id in big))
        said, reads = taken(place, tmp_path, labels=str(table))
        assert reads == ([] if version else sorted(big))
    assert said == "40 entries: 0 added, 30 changed, 0 removed; 0 read"
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "raw/pics").glob(raw.PARTS)}
    assert max(size for name, size in sizes.items() if name > "0002") < 10_000 < 800_000 < sizes["0001-000000.parquet"]
    assert contents(tmp_path) == big
    found = raw.index(tmp_path / "raw/pics")
    assert set(found["size"]) == {20_000}
    assert [len(raw.index(tmp_path / "raw/pics", version).query("label == 'dog'")) for version in (1, 2, 3)] == [
        0,
        30,
        0,
    ]
    fill(place, {"07.png": b"another"})
    table.write_text(table.read_text().replace("08.png,cat,", "08.png,cat,test"))
    said, reads = taken(place, tmp_path, labels=str(table))
    assert reads == ["07.png"]
    assert contents(tmp_path) == big | {"07.png": b"another"}
    assert raw.versions(tmp_path / "raw/pics")[-1]["digest"] == fresh_digest(place, tmp_path, labels=str(table))


def fresh_digest(place: Path, data: Path, **knobs: Any) -> str:
    taken(place, data / "fresh", **knobs)
    return raw.versions(data / "fresh/raw/pics")[-1]["digest"]


names = st.sampled_from([f"{label}/{n}.png" for label in ("a", "b", "c") for n in range(4)])
edits = st.lists(st.dictionaries(names, st.one_of(st.none(), st.binary(max_size=8)), max_size=5), max_size=4)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.dictionaries(names, st.binary(max_size=8), min_size=1), edits, st.booleans(), st.booleans())
def test_a_grown_set_is_the_same_as_a_fresh_one(
    start: dict[str, bytes], history: list[dict[str, bytes | None]], stamps: bool, forgets: bool
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place, data = fill(Path(scratch, "pics"), start | {"kept/1.png": b""}), Path(scratch)
        taken(place, data, stamps=stamps)
        for edit in history:
            for name, content in edit.items():
                if content is None:
                    (place / name).unlink(missing_ok=True)
                else:
                    fill(place, {name: content})
            if forgets:
                shutil.rmtree(data / "work")
            taken(place, data, stamps=stamps)
        taken(place, data / "fresh", stamps=stamps)
        grown, fresh = data / "raw/pics", data / "fresh/raw/pics"
        pd.testing.assert_frame_equal(raw.index(grown), raw.index(fresh))
        assert contents(data) == contents(data / "fresh")
        last, first = raw.versions(grown)[-1], raw.versions(fresh)[-1]
        assert (last["digest"], last["count"]) == (first["digest"], first["count"])
        assert sorted(raw.superseded(grown)) == sorted({chunk.file for chunk in raw.chunks(grown)})


def test_the_order_of_the_file_system_leaves_no_trace(tmp_path: Path) -> None:
    for number, order in enumerate((sorted, lambda names: sorted(names, reverse=True))):
        place = fill(tmp_path / "pics", {name: numbered(50)[name] for name in order(numbered(50))})
        for name in list(numbered(50))[::3]:
            os.utime(place / name, (number, number))
            (place / name).chmod(0o600 + number)
        taken(place, tmp_path / str(number))
        shutil.rmtree(place)
    assert written(tmp_path / "0") == written(tmp_path / "1")
    assert [row.id for row in rows(tmp_path / "0")] == sorted(numbered(50))


def test_row_groups_are_small_and_parts_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "GROUP_BYTES", 10_000)
    monkeypatch.setattr(raw, "PART_BYTES", 100_000)
    content = {f"{n:04d}.png": np.random.default_rng(n).bytes(900 if n < 600 else 4) for n in range(1800)}
    taken(fill(tmp_path / "pics", content), tmp_path)
    chunks = raw.chunks(tmp_path / "raw/pics")
    assert {chunk.rows for chunk in chunks if chunk.file == "0001-000000.parquet"} == {12}
    assert max(chunk.rows for chunk in chunks) == raw.GROUP_ROWS
    assert sorted({chunk.file for chunk in chunks}) == [raw.part_name(1, part) for part in range(6)]
    assert contents(tmp_path) == content


class Arrays(acquire.Source):
    """A source of bare pixels, some of which cannot be read."""

    kind: Literal["arrays"] = "arrays"
    faults: dict[str, str] = Field(default_factory=dict)

    def entries(self, work: Path) -> Iterator[Entry]:
        for n in range(9):
            fault = self.faults.get(str(n))
            yield Entry(str(n), "even" if n % 2 else None, "test", f"v{fault}", partial(self.pixels, n, fault), "a.npy")

    def pixels(self, n: int, fault: str | None) -> np.ndarray:
        if fault == "user":
            raise UserError("the store is gone; bring it back")
        if fault is not None:
            raise OSError(5, "Input/output error") if fault == "disk" else ValueError(f"{fault}\n\udcff")
        return np.full((3, 2, n + 1), n, np.uint8)


def test_pixels_come_back_in_their_shape_and_what_cannot_be_read_is_a_flaw(tmp_path: Path) -> None:
    place = tmp_path / "raw/pics"
    said = take_in(Arrays(faults={"3": "disk", "4": "odd"}), place, tmp_path / "work")
    assert said == "9 entries: 9 added, 0 changed, 0 removed; 9 read"
    for n, row in enumerate(rows(tmp_path)):
        assert row[:4] == (str(n), "a.npy", "even" if n % 2 else None, "test")
        if n in (3, 4):
            reason = "Input/output error" if n == 3 else "odd"
            assert (row.content, row.sha256, row.flaw) == (None, "", f"unreadable ({reason})")
        else:
            assert isinstance(row.content, np.ndarray)
            assert row.content.dtype == np.uint8
            assert (row.content == np.full((3, 2, n + 1), n)).all()
    assert len({row.sha256 for row in rows(tmp_path)}) == 8
    before = written(tmp_path)
    with pytest.raises(UserError, match="the store is gone"):
        take_in(Arrays(faults={"3": "user"}), place, tmp_path / "work")
    assert written(tmp_path) == before


def test_entries_of_one_name_are_told_apart(tmp_path: Path) -> None:
    class Twins(acquire.Source):
        kind: Literal["twins"] = "twins"

        def entries(self, work: Path) -> Iterator[Entry]:
            for id in ("a", "a", "a (2)", "a"):
                yield Entry(id, None, None, None, id.encode)

    take_in(Twins(), tmp_path / "raw/pics", tmp_path / "work")
    found = [(row.id, row.content, row.flaw) for row in rows(tmp_path)]
    flaw = "has the name of another"
    assert found == [("a", b"a", None), ("a (2)", b"a (2)", None), ("a (3)", None, flaw), ("a (4)", None, flaw)]
    take_in(Twins(), tmp_path / "raw/pics", tmp_path / "work")
    assert len(raw.versions(tmp_path / "raw/pics")) == 1


@pytest.mark.parametrize("how", ["no archive", "cut off", "a pipe"])
def test_what_a_damaged_archive_held_does_not_count_as_removed(tmp_path: Path, how: str) -> None:
    place = fill(tmp_path / "pics", numbered(3))
    with tarfile.open(place / "more.tar", "w") as archive:
        for name in numbered(8, 3):
            archive.add(fill(tmp_path / "more", numbered(8, 3)) / name, name)
    taken(place, tmp_path)
    before, whole = written(tmp_path), (place / "more.tar").read_bytes()
    (place / "more.tar").unlink()
    if how == "a pipe":
        os.mkfifo(place / "more.tar")
    else:
        (place / "more.tar").write_bytes(b"x" * 999 if how == "no archive" else whole[:2000])
    with pytest.raises(UserError, match=r"pics: more.tar: .* such as more/\d/\d+.png, would count as removed"):
        taken(place, tmp_path)
    assert written(tmp_path) == before
    (place / "more.tar").unlink()
    assert "8 removed" in taken(place, tmp_path)[0]


def test_an_empty_source_is_one_clear_line_and_removes_nothing(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", numbered(3))
    taken(place, tmp_path)
    before = written(tmp_path)
    shutil.rmtree(place)
    place.mkdir()
    with pytest.raises(UserError, match="holds no pictures") as error:
        taken(place, tmp_path)
    assert "\n" not in str(error.value)
    assert written(tmp_path) == before


def test_what_is_no_raw_data_set_says_how_to_get_one(tmp_path: Path) -> None:
    for content in ({}, {"x": b""}, {raw.SOURCE: b"{"}, {raw.SOURCE: b'{"versions": [{"version": 1}]}'}):
        fill(tmp_path / "pics", content)
        for reading in (raw.chunks, raw.index, raw.superseded):
            with pytest.raises(UserError, match="not a raw data set; bring it: `dvc repro acquire@pics`"):
                reading(tmp_path / "pics")  # type: ignore[operator]
    taken(fill(tmp_path / "source", numbered(3)), tmp_path)
    part = tmp_path / "raw/pics/0001-000000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"0001-000000\.parquet: damaged; remove"):
        raw.chunks(tmp_path / "raw/pics")


def test_the_kinds_are_the_files_that_define_a_source() -> None:
    program = "import sys; from aigc_tasks import acquire; print(*acquire.kinds(), 'fsspec' in sys.modules)"
    done = subprocess.check_output([sys.executable, "-c", program], text=True)
    *kinds, heavy = done.split()
    assert {"digits", "folder", "mnist"} <= set(kinds)
    assert not {"archives", "intake", "labels", "raw", "remote"} & set(kinds)
    assert heavy == "False"
    assert all(issubclass(acquire.source(kind), acquire.Source) for kind in kinds)


KILLED = """
import json, os, signal, shutil, sys
from pathlib import Path
from aigc_tasks.acquire import folder, raw
from aigc_tasks.acquire.intake import take_in

raw.GROUP_BYTES, raw.PART_BYTES = 2_000, 8_000
start, work = Path(sys.argv[1]), Path(sys.argv[2])
EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}

def child(data, kill_at):
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    seen, reads = 0, set()
    def hook(event, arguments):
        nonlocal seen
        if event == "open" and str(arguments[0]).endswith(".png"):
            reads.add(str(arguments[0]))
            return
        if event in EVENTS and isinstance(arguments[0], (str, os.PathLike)) and str(data) in str(arguments[0]):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    take_in(folder.Source(kind="folder", source=str(start / "pics")), data / "raw/pics", data / "work")
    (data / "reads").write_text(str(len(reads)))
    os._exit(0)

def state(data):
    return {file.name: file.read_bytes().hex() for file in sorted((data / "raw/pics").iterdir())}

kills, expected, counts = 0, None, []
for kill_at in range(400):
    data = work / str(kill_at)
    shutil.copytree(start / "data", data) if (start / "data").exists() else data.mkdir()
    if kill_at:
        kills += child(data, kill_at) == signal.SIGKILL
    assert child(data, 0) == 0
    counts.append(int((data / "reads").read_text()))
    expected = expected or state(data)
    assert state(data) == expected, kill_at
    if kill_at and kills < kill_at:
        break
    shutil.rmtree(data)
print(json.dumps([kills, counts, sorted(expected)]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_a_kill_at_any_moment_leaves_the_same_bytes_and_finished_parts_are_not_read_again(
    tmp_path: Path, version: int
) -> None:
    start = tmp_path / "start"
    place = fill(start / "pics", {f"{n:03d}.png": np.random.default_rng(n).bytes(400) for n in range(80)})
    if version == 2:
        take_in(folder.Source(kind="folder", source=str(place)), start / "data/raw/pics", start / "data/work")
        fill(place, {f"{n:03d}.png": np.random.default_rng(n + 1000).bytes(400) for n in range(0, 160, 2)})
        (place / "001.png").unlink()
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-c", KILLED, str(start), str(tmp_path / "work")]
    kills, counts, files = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    assert kills > 20  # each opening, renaming, linking and removing of a file
    assert counts[0] == 80
    assert min(counts) <= 20  # all but the last part was there already
    # Four are full; what was removed comes at the end.
    assert len([file for file in files if file.startswith(f"000{version}")]) == 3 + version
