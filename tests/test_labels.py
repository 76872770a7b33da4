"""CSVs of labels: how they are read, which pictures they label, and what is wrong in one line."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from archives import fill, packed
from folders import fetched
from hypothesis import given, settings
from hypothesis import strategies as st
from listing import contents, listed
from pictures import png
from shards import sample
from web_server import served

from aigc_tasks.acquire import Entry, labels
from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


def told(tmp_path: Path, content: str | bytes) -> dict[str, labels.Told]:
    file = tmp_path / "labels.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return labels.read(str(file))


@pytest.mark.parametrize(
    "content",
    [
        "file,label\na/1.png,cat\n2.png,dog\n",
        "\ufefffile,label\r\na/1.png,cat\r\n2.png,dog\r\n",
        "Label;File Name\ncat;a/1.png\ndog;2.png",
        'image_id\tbreed\n"a/1.png"\tcat\n\n2.png\tdog\n\n',
        "n|FILENAME|class|extra\n1|a\\1.png|cat|x\n2|./2.png| dog |y\n",
        "id,path,target\n1,a/1.png,cat\n2,2.png,dog\n2,2.png,dog\n",
    ],
)
def test_labels_are_read_however_the_columns_are_called(tmp_path: Path, content: str) -> None:
    assert told(tmp_path, content) == {"a/1.png": labels.Told("cat", None), "2.png": labels.Told("dog", None)}


LINES = "id,label,split\n0007,a,train\nx/8.png,b,Validation\ny/8.png,c,\nz/9.png,d,test\n"


def labelled(tmp_path: Path, content: str, *ids: str) -> list[tuple[str | None, str | None]]:
    """The label and the split of each, which is a picture, according to a CSV."""
    (tmp_path / "labels.csv").write_text(content)
    entries = [Entry(id, None, None, None, lambda: b"") for id in ids]
    return [entry[1:3] for entry in labels.applied(lambda: iter(entries), str(tmp_path / "labels.csv"))]


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("0007", ("a", "train")),
        ("set/train/0007.jpg", ("a", "train")),
        ("x/8.png", ("b", "val")),
        ("set/y/8.png", ("c", None)),
        ("8.png", (None, None)),  # which of the two?
        ("9.png", ("d", "test")),
        ("other/9.png", ("d", "test")),
    ],
)
def test_labels_are_found_by_id_by_name_and_without_ending(tmp_path: Path, id: str, expected: tuple[str, str]) -> None:
    assert labelled(tmp_path, LINES, id, "x/8.png")[0] == expected


def test_a_line_of_labels_is_about_one_picture(tmp_path: Path) -> None:
    cat, none = ("cat", None), (None, None)
    assert labelled(tmp_path, "file,label\n0.png,cat\n", "0.png", "a/0.png") == [cat, none]
    assert labelled(tmp_path, "file,label\na/0.png,cat\n", "0.png", "a/0.png") == [none, cat]
    assert labelled(tmp_path, "file,label\n0.png,cat\n", "a/0.png", "b/0.png") == [none, none]
    assert labelled(tmp_path, "file,label\n0,cat\n", "notes/0.txt", "a/0.png")[1] == cat


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png,cat\nb.png,dog\n", "no column is named `file`: its first line is 'a.png', 'cat'; begin it with"),
        ("file,width,height\na.png,1,2\n", "no column is named `label`: its first line is 'file', 'width', 'height'"),
        ("", "no column is named `file`: its first line is nothing"),
        ("file\na.png\n", "no column is named `label`"),
        ("file,label\na.png,caf\xe9\n".encode("latin-1"), "line 2 is not UTF-8; save the file as UTF-8"),
        ("file,label\na.png,cat\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("file,label\na.png\n", "line 2 has 1 columns, the first line 2"),
        ("file,label\na.png,cat,dog\n", "line 2 has 3 columns, the first line 2"),
        ("file,label\na.png,cat\nb.png,cat\n./a.png,dog\n", "line 4 names a.png again with another label"),
        ("file,label\n,cat\n", "line 2 names no file"),
        ('file,label\n"a.png,cat\nb.png,dog\n', "line 3: unexpected end of data"),
        ("file,label\na.png," + "x" * 200_000, "line 2: field larger than field limit"),
        ("file,label,split\na.png,cat,sometimes\n", "'sometimes' is no split; write train, val or test there"),
    ],
)
def test_a_bad_csv_is_one_clear_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        told(tmp_path, content)
    assert message in str(error.value)
    assert "labels.csv" in str(error.value)
    assert "set `labels` in params.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: f"file,label,split\n{text}".encode())))
def test_no_csv_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    tmp_path = tmp_path_factory.getbasetemp()
    said = ""
    try:
        assert all(one.split in (None, "train", "val", "test") for one in told(tmp_path, content).values())
    except UserError as error:
        said = str(error)
    assert "\n" not in said


def test_a_csv_labels_a_source_and_says_what_it_misses(tmp_path: Path) -> None:
    file = packed(tmp_path / "train.tar", {**sample(0, "old"), **sample(1), **sample(2), "0003.cls": b"x"})
    (tmp_path / "labels.csv").write_text("image,class,split\n0000.png,cat,\n1.png,dog,\n0002,owl,test\n")
    entries = listed(tmp_path, "webdataset", source=str(file), labels=str(tmp_path / "labels.csv"))
    assert [(entry.label, entry.split, entry.flaw) for entry in entries] == [
        ("cat", "train", None),
        (None, "train", "no label in labels.csv"),
        ("owl", "test", None),
        (None, "train", "no picture beside it"),
    ]
    assert contents(entries) == [png(0), png(2)]
    with served(tmp_path) as (url, _):
        there = listed(tmp_path, "webdataset", source=str(file), labels=f"{url}/labels.csv?sig=secret")
        assert [(entry[:3], entry.flaw) for entry in there] == [(entry[:3], entry.flaw) for entry in entries]
        with pytest.raises(UserError, match=r"none.csv: .*404"):
            listed(tmp_path, "webdataset", source=str(file), labels=f"{url}/none.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    for place in (str(tmp_path / "pipe.csv"), (tmp_path / "pipe.csv").as_uri(), "/dev/zero"):
        with pytest.raises(UserError, match=r": not a regular file; .* in params.yaml"):
            listed(tmp_path, "webdataset", source=str(file), labels=place)
    with pytest.raises(UserError, match=r"none.csv: no such file; set `labels` in params.yaml"):
        listed(tmp_path, "webdataset", source=str(file), labels=str(tmp_path / "none.csv"))
    (tmp_path / "labels.csv").write_text("image,class\nx/y.png,cat\n")
    with pytest.raises(UserError, match=r"names none of the source's files, such as train.tar/0000.png"):
        listed(tmp_path, "webdataset", source=str(file), labels=str(tmp_path / "labels.csv"))


def test_a_csv_of_labels_is_none_of_the_pictures(tmp_path: Path) -> None:
    table = "file,label,split\na.png,cat,test\nb/c.png,horse,\n"
    place = fill(tmp_path / "pics", {"a.png": b"1", "b/c.png": b"2", "d.png": b"3", "labels.csv": table.encode()})
    rows = fetched(place, tmp_path / "data", labels=str(place / "labels.csv"))
    assert [(row.id, row.label, row.split, row.flaw) for row in rows] == [
        ("a.png", "cat", "test", None),
        ("b/c.png", "horse", None, None),
        ("d.png", None, None, "no label in labels.csv"),
    ]


def test_a_csv_labels_what_it_names_and_nothing_of_the_same_name(tmp_path: Path) -> None:
    lines = b"file,label\n0.png,cat\n1.png,horse\n"
    names = ["0.png", "a/0.png", "a/1.png", "b/1.png"]
    place = fill(tmp_path / "pics", {name: name.encode() for name in names} | {"labels.csv": lines})
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
    place = fill(
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
