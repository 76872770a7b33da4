"""Parquet files: which columns are pictures, classes and splits, and what of it cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listing import contents, listed
from pictures import png
from shards import hugging_face
from web_server import served

from aigc_tasks import acquire
from aigc_tasks.acquire import intake, raw
from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    hugging_face(tmp_path / "set/data/train-00000-of-00002.parquet", 250)
    hugging_face(tmp_path / "set/data/train-00001-of-00002.parquet", 250, 250)
    hugging_face(tmp_path / "set/data/test-00000-of-00001.parquet", 10, 500)
    (tmp_path / "set/README.md").write_text("a card")
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "set"))
    assert len({entry.id for entry in entries}) == 510
    assert entries[0].id == "data/test-00000-of-00001.parquet/0000000"
    assert [entry.split for entry in entries] == ["test"] * 10 + ["train"] * 500
    numbers = [*range(500, 510), *range(500)]
    assert [entry.label for entry in entries] == [("cat", "dog", "owl")[number % 3] for number in numbers]
    assert contents(entries) == [png(number) for number in numbers]


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(300)), st.sampled_from([7, 100, 1000]))
def test_parquet_is_read_in_any_order(tmp_path_factory: pytest.TempPathFactory, order: list[int], rows: int) -> None:
    tmp_path = tmp_path_factory.mktemp("parquet")
    entries = listed(tmp_path, "parquet", source=str(hugging_face(tmp_path / "a.parquet", 300, rows=rows)))
    for number in order[:40]:
        assert entries[number].read() == png(number)  # type: ignore[misc]


def test_parquets_columns_are_found_or_named(tmp_path: Path) -> None:
    pictures = pa.array([png(number) for number in range(4)], pa.large_binary())
    table = pa.table(
        {
            "id": [1, 2, 3, 4],
            "thumb": pa.array([b"x"] * 4),
            "img": pictures,
            "kind": pa.array(["a", "b", None, "a"]).dictionary_encode(),
            "split": ["train", "validation", " Test ", ""],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    assert [entry[:3] for entry in entries] == [
        (f"a.parquet/{number:07d}", None, split) for number, split in enumerate(["train", "val", "test", None])
    ]
    assert contents(entries) == pictures.to_pylist()
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"), image="thumb", label="kind", split=False)
    assert [(entry.label, entry.flaw) for entry in entries] == [
        ("a", None),
        ("b", None),
        (None, "no label"),
        ("a", None),
    ]
    assert {entry.split for entry in entries} == {None}
    assert contents(entries) == [b"x"] * 3
    for knobs, message in (
        (
            {"image": "picture"},
            "a.parquet: has no column 'picture'; set `image` in params.yaml to one of: id, thumb, img",
        ),
        ({"image": "id"}, "no column of encoded pictures is 'id'; set `image`"),
        ({"label": "img"}, "column 'img' holds large_binary, no classes; set `label`"),
        ({"split": "x"}, "has no column 'x'; set `split`"),
    ):
        with pytest.raises(UserError) as error:
            listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"), **knobs)
        assert message in str(error.value)
    for several in ("img", "kind", "split", "id"):
        pq.write_table(table.append_column(several, table[several]), tmp_path / "a.parquet")
        with pytest.raises(UserError, match=f"a.parquet: has several columns '{several}'; write it again with one of"):
            listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    pq.write_table(table.select(["id", "kind"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column of encoded pictures; set `image`.*id \(int64\)"):
        listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))


def test_parquet_rows_without_picture_or_class_say_so(tmp_path: Path) -> None:
    found = pa.array([0, -1, None, 3, 2], pa.int64())
    empty = pa.array([{"bytes": None, "path": "a.png"}] * 5, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    hugging_face(tmp_path / "a.parquet", 5, label=found, image=empty)
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    flaws = [None, "no label", "no label", "its label is no class (3 of 3)", None]
    assert [entry.flaw for entry in entries] == flaws
    with pytest.raises(ValueError, match="no bytes in the file"):
        entries[0].read()  # type: ignore[misc]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16(), pa.decimal128(38, 2)])
def test_parquet_labels_that_are_whole_numbers_with_a_point_are_classes(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"image": [png(number) for number in range(3)], "label": pa.array([3, None, 10]).cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    assert [(entry.label, entry.flaw) for entry in entries] == [("3", None), (None, "no label"), ("10", None)]
    pq.write_table(table.rename_columns(["image", "target"]), tmp_path / "a.parquet")
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    assert [(entry.label, entry.flaw) for entry in entries] == [(None, None)] * 3, "a measure of something"


def test_parquet_labels_that_are_no_classes_are_said(tmp_path: Path) -> None:
    columns = {"image": [png(number) for number in range(4)], "label": [0.5, float("nan"), float("inf"), 2.0]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    measure = "its label is no class ({}; `label: false` if it is a measure)"
    flaws = [measure.format(0.5), "no label", measure.format("inf"), None]
    assert [entry.flaw for entry in entries] == flaws
    pq.write_table(pa.table(columns | {"label": [[1], [2], [], [1, 3]]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"column 'label' holds list.*, no classes; set `label` .* or to false"):
        listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"), label=False)
    assert [(entry.label, entry.flaw) for entry in entries] == [(None, None)] * 4


@pytest.mark.parametrize(
    ("column", "said"),
    [(["train", None, "fold1"], "row 2: 'fold1'"), ([0, 1, 2], "row 0: '0'"), ([True] * 3, "'True'")],
)
def test_a_parquet_column_of_other_words_than_splits_is_one_clear_line(tmp_path: Path, column: list, said: str) -> None:
    file = hugging_face(tmp_path / "test/a.parquet", 3, split=pa.array(column))
    mend = f"{said} is no split; write train, val or test there, or nothing, or set `split` in params.yaml to .* false"
    for knobs in ({}, {"split": "split"}):
        with pytest.raises(UserError, match=f"a.parquet: column 'split', .*{mend}"):
            listed(tmp_path, "parquet", source=str(file), **knobs)
    entries = listed(tmp_path, "parquet", source=str(tmp_path), split=False)
    assert [entry.split for entry in entries] == ["test"] * 3, "as its folder tells"


def test_a_parquet_file_without_classes_beside_one_with_them_is_one_clear_line(tmp_path: Path) -> None:
    hugging_face(tmp_path / "set/b.parquet", 5)
    bare = pa.table({"image": [png(number) for number in range(5, 9)]})
    for name in ("a", "c"):  # before the one with classes, and behind it
        file = tmp_path / f"set/{name}.parquet"
        pq.write_table(bare, file)
        said = f"{name}.parquet: no column of classes was found in it, and in b.parquet 'label'; set `label` in params"
        with pytest.raises(UserError, match=said):
            listed(tmp_path, "parquet", source=str(tmp_path / "set"))
        entries = listed(tmp_path, "parquet", source=str(tmp_path / "set"), label=False)
        assert [(entry.label, entry.flaw) for entry in entries] == [(None, None)] * 9
        file.unlink()


def test_a_damaged_parquet_file_is_one_clear_line_and_a_damaged_page_a_flaw(tmp_path: Path) -> None:
    file = hugging_face(tmp_path / "a.parquet", 300)
    whole = file.read_bytes()
    for spoiled in (whole[:-100], b"", b"PAR1" * 100, whole[: len(whole) // 2]):
        file.write_bytes(spoiled)
        with pytest.raises(UserError, match=r"a.parquet: not a whole Parquet file: .*; replace it"):
            listed(tmp_path, "parquet", source=str(file))
    column = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(1).column(0)
    page = column.dictionary_page_offset or column.data_page_offset
    file.write_bytes(whole[:page] + bytes(column.total_compressed_size) + whole[page + column.total_compressed_size :])
    entries = listed(tmp_path, "parquet", source=str(file))
    intake.take_in(acquire.source("parquet")(kind="parquet", source=str(file)), tmp_path / "raw", tmp_path / "work")
    flaws = raw.index(tmp_path / "raw").sort_values("id")["flaw"]
    assert len(entries) == 300
    assert flaws.notna().tolist() == [100 <= number < 200 for number in range(300)]
    assert flaws.dropna().str.contains("row group 1 is damaged").all()


def test_remote_parquet_is_fetched_once(tmp_path: Path) -> None:
    hugging_face(tmp_path / "set/train-0.parquet", 30)
    hugging_face(tmp_path / "set/train-1.parquet", 30, 30)
    here = listed(tmp_path, "parquet", source=str(tmp_path / "set"))
    with served(tmp_path / "set") as (url, requests):
        for source in (url, f"{url}/", f"{url}/train-{{0..1}}.parquet"):
            there = listed(tmp_path, "parquet", source=source)
            assert [entry[:3] for entry in there] == [entry[:3] for entry in here]
        assert contents(there) == contents(here)
        first = [entry.stamp for entry in there]
        assert [entry.stamp for entry in listed(tmp_path, "parquet", source=f"{url}/train-{{0..1}}.parquet")] == first
        assert len(list((tmp_path / "work").rglob("*.parquet"))) == 2
        hugging_face(tmp_path / "set/train-1.parquet", 31, 30)
        grown = listed(tmp_path, "parquet", source=f"{url}/train-{{0..1}}.parquet")
        assert [entry.stamp for entry in grown[:30]] == first[:30]
        assert not {entry.stamp for entry in grown[30:]} & set(first)
        with pytest.raises(UserError, match="404"):
            listed(tmp_path, "parquet", source=f"{url}/train-2.parquet")
        assert requests
