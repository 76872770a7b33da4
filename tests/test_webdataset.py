"""WebDataset shards: the samples and labels in them, and the pieces that are missing or spoiled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from archives import packed
from listing import contents, listed
from pictures import png
from shards import sample
from web_server import served

from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_webdataset_shards_are_read_by_pattern_and_by_folder(tmp_path: Path) -> None:
    (tmp_path / "set/val").mkdir(parents=True)
    for shard in range(12):
        members = {k: v for number in range(5) for k, v in sample(5 * shard + number, number % 2).items()}
        packed(tmp_path / f"set/train-{shard:03d}.tar", members)
    packed(tmp_path / "set/val/0.tar.gz", {**sample(60, 0), **sample(61, 1)})
    entries = listed(tmp_path, "webdataset", source=str(tmp_path / "set"))
    assert len({entry.id for entry in entries}) == 62
    assert entries[0][:3] == ("train-000.tar/0000.png", "0", "train")
    assert entries[-1][:3] == ("val/0.tar.gz/0061.png", "1", "val")
    assert contents(entries) == [png(number) for number in range(62)]
    some = listed(tmp_path, "webdataset", source=str(tmp_path / "set/train-{003..010}.tar"))
    assert [entry.id for entry in some] == [entry.id for entry in entries[15:55]]
    mixed = listed(tmp_path, "webdataset", source=f"{tmp_path}/set/{{val/0.tar.gz,train-00{{1..2}}.tar}}")
    assert {entry.source for entry in mixed} == {"val/0.tar.gz", "train-001.tar", "train-002.tar"}
    with served(tmp_path / "set") as (url, _):
        there = listed(tmp_path, "webdataset", source=f"{url}/train-{{000..011}}.tar")
        assert [entry[:3] for entry in there] == [entry[:3] for entry in entries[:60]]
        assert contents(there) == contents(entries[:60])


def test_webdataset_labels_come_in_three_ways_or_not_at_all(tmp_path: Path) -> None:
    members = {
        **sample(0, 7),
        **sample(1, json.dumps({"label": "dog", "width": 4}), "json"),
        **sample(2, json.dumps({"label": 3}), "json"),
        **sample(3, " owl\n", "txt"),
        **{"a/b.c/x.PNG": png(4), "a/b.c/x.CLS": b"cat"},
    }
    file = packed(tmp_path / "a.tar", members)
    entries = listed(tmp_path, "webdataset", source=str(file))
    assert [entry.label for entry in entries] == ["7", "dog", "3", "owl", "cat"]
    assert entries[-1].id == "a.tar/a/b.c/x.PNG"
    assert {entry.label for entry in listed(tmp_path, "webdataset", source=str(file), labels=False)} == {None}
    bare = packed(tmp_path / "b.tar", {**sample(0), **sample(1), "0002.json": b'{"width": 3}', "0002.png": png(2)})
    entries = listed(tmp_path, "webdataset", source=str(bare))
    assert [(entry.label, entry.flaw) for entry in entries] == [(None, None)] * 3
    flaws = [entry.flaw for entry in listed(tmp_path, "webdataset", source=str(bare), labels=True)]
    assert flaws == ["no label beside it"] * 3


def test_webdataset_labels_that_are_whole_numbers_with_a_point_are_classes(tmp_path: Path) -> None:
    told = [3.0, 3, float("nan"), 0.5, float("inf")]
    members = {k: v for number, label in enumerate(told) for k, v in labelled(number, label).items()}
    entries = listed(tmp_path, "webdataset", source=str(packed(tmp_path / "a.tar", members)))
    assert [(entry.label, entry.flaw) for entry in entries] == [("3", None)] * 2 + [(None, "no label beside it")] * 3
    measured = packed(tmp_path / "b.tar", labelled(0, 0.5))
    assert listed(tmp_path, "webdataset", source=str(measured))[0][:2] == ("b.tar/0000.png", None)


def labelled(number: int, label: float) -> dict[str, bytes]:
    return sample(number, json.dumps({"label": label}), "json")


def test_webdatasets_missing_and_spoiled_pieces_are_accounted_for(tmp_path: Path) -> None:
    members = {
        **sample(0, "cat"),
        **sample(1),
        "0002.cls": b"dog",
        "0003.cls": b"\xff\xfe",
        "0003.png": png(3),
        "0004.json": b"{",
        "0004.png": png(4),
        "../0005.cls": b"cat",
        "../0005.png": png(5),
        ".hidden.png": png(6),
        "0007.cls": b"owl",
        "0007.seg.png": png(0),
        "0007.png": png(7),
    }
    entries = listed(tmp_path, "webdataset", source=str(packed(tmp_path / "a.tar", members)))
    assert [(entry.id, entry.label, entry.flaw) for entry in entries] == [
        ("a.tar/0000.png", "cat", None),
        ("a.tar/0001.png", None, "no label beside it"),
        ("a.tar/0002.cls", None, "no picture beside it"),
        ("a.tar/0003.png", None, "its label is unreadable (.cls)"),
        ("a.tar/0004.png", None, "its label is unreadable (.json)"),
        ("a.tar/%2E%2E/0005.png", "cat", "points out of its archive"),
        ("a.tar/0007.seg.png", "owl", None),
        ("a.tar/0007.png", "owl", None),
    ]
    assert contents(entries) == [png(0), png(0), png(7)]
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 2 * 1024 + 100])
    cut = listed(tmp_path, "webdataset", source=str(tmp_path / "a.tar"))
    assert cut[-1].flaw == "archive damaged (after 2 members)"
    (tmp_path / "a.tar").write_bytes(b"x" * 10_000)
    with pytest.raises(UserError, match=r"a.tar: not a whole archive; replace it"):
        listed(tmp_path, "webdataset", source=str(tmp_path / "a.tar"))
