"""The manifest's schema and the data report: what must hold, what a reader sees, and what a hostile name cannot do."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from aigc_tasks.clean import report
from aigc_tasks.clean.schema import COLUMNS, validated

REASONS = ["unreadable (OSError)", "too small (4×5)", "duplicate of 0", "near duplicate of 1 (2).jpg", "truncated"]
EVIL = "\u202egpj.<script>alert(1)</script>\x00\"'><img src=x onerror=alert(1)>"
VERSIONS = [
    {"version": 1, "count": 40, "added": 40, "changed": 0, "removed": 0, "digest": "a" * 64},
    {"version": 2, "count": 60, "added": 21, "changed": 3, "removed": 1, "digest": "b" * 64},
]
NONE = report.Pictures({}, [], {}, {})


TYPES = {
    "row": "Int64", "width": "Int32", "height": "Int32", "brightness": "float32", "contrast": "float32",
    "outlier": "float32",
}  # fmt: skip


def typed(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({name: TYPES.get(name, "str") for name in COLUMNS})[[*COLUMNS]]


def manifest(count: int = 60, labels: int = 3, seed: int = 0) -> pd.DataFrame:
    """Of every six samples one is dropped; each fourth kept one has a flag."""
    rng = np.random.default_rng(seed)
    numbers = pd.Series(range(count))
    kept = numbers % 6 != 5
    digests = numbers.map(lambda number: hashlib.sha256(f"{seed}/{number}".encode()).hexdigest())
    table = pd.DataFrame({
        "id": numbers.map("folder/{}.jpg".format), "source": "", "sha256": digests, "file_sha256": digests,
        "label": (numbers % labels).map("class {}".format),
        "split": pd.Series(rng.choice(["train", "val", "test"], count)).where(kept),
        "row": None, "reason": numbers.map(lambda number: REASONS[number // 6 % 5]).where(~kept),
        "flags": np.where(numbers % 4 == 0, "odd mode (CMYK); odd mode (turned upright)", ""),
        "width": rng.integers(8, 300, count), "height": rng.integers(8, 300, count), "mode": "RGB",
        "brightness": rng.uniform(0, 255, count), "contrast": rng.uniform(1, 100, count),
        "near": numbers.map(lambda number: f"folder/{number - 1}.jpg").where(~kept), "outlier": 0.5,
    })  # fmt: skip
    table["row"] = table.groupby("split").cumcount().where(kept)
    table.loc[table["reason"] == REASONS[0], ["sha256", "width", "height", "mode", "brightness", "contrast"]] = None
    return typed(table)


def pixels(number: int, side: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (channels, side, side), dtype=np.uint8)


def shown(table: pd.DataFrame) -> report.Pictures:
    """Pictures of all kinds, under the ids that the manifest has."""
    kept = table[table["reason"].isna()]
    first = table[table["reason"] == REASONS[1]]["id"].iloc[0]
    return report.Pictures(
        dropped={"too small": [(first, pixels(1, 5))]},
        pairs=[(table["id"].iloc[5], pixels(2), kept["id"].iloc[0], pixels(3, 200))],
        flagged={"odd mode": [(kept["id"].iloc[0], pixels(4, channels=1))]},
        kept={label: [pixels(5), pixels(6)] for label in kept["label"].unique()},
    )


def page(table: pd.DataFrame, pictures: report.Pictures = NONE, **other: Any) -> str:
    return report.page("digits", table, pictures, **{"versions": VERSIONS, "changes": None, "trouble": None, **other})


class Seen(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def images(self) -> list[tuple[str, np.ndarray]]:
        """Every picture with its alternative text."""
        found = [attributes for tag, attributes in self.tags if tag == "img"]
        sources = [base64.b64decode(each["src"].removeprefix("data:image/png;base64,")) for each in found]
        return [
            (each["alt"], np.asarray(Image.open(io.BytesIO(source))))
            for each, source in zip(found, sources, strict=True)
        ]


def test_a_right_manifest_gets_its_types_and_keeps_them_on_disk(tmp_path: Path) -> None:
    table = manifest()
    validated(table)
    table.to_parquet(tmp_path / "manifest.parquet", index=False)
    validated(pd.read_parquet(tmp_path / "manifest.parquet"))
    with pytest.raises(AssertionError, match="row"):
        validated(table.astype({"row": "float64"}))
    validated(manifest().iloc[:0])


def changed(row: int, column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Row 0 is kept and flagged, row 5 unreadable, row 11 too small."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (changed(0, "split", "dev"), "split"),
        (changed(0, "split", None), "has its place in a split"),
        (changed(0, "row", None), "has its place in a split"),
        (changed(0, "reason", "blank"), "has its place in a split"),
        (changed(11, "reason", None), "has its place in a split"),
        (changed(11, "reason", ""), "reason"),
        (changed(0, "row", 1000), "rows 0 … n-1"),
        (changed(0, "row", -1), "row"),
        (changed(0, "sha256", "A" * 64), "64 hexadecimal digits"),
        (changed(0, "sha256", "a" * 64 + "\n"), "64 hexadecimal digits"),
        (changed(0, "sha256", None), "was decoded and measured"),
        (changed(0, "brightness", None), "was decoded and measured"),
        (changed(0, "contrast", 128), "contrast"),
        (changed(11, "width", None), "has a size"),
        (changed(11, "width", 0), "width"),
        (changed(0, "id", "folder/1.jpg"), "id"),
        (changed(5, "near", "elsewhere.jpg"), "twin"),
        (changed(5, "near", "folder/5.jpg"), "twin"),
        (changed(0, "flags", None), "flags"),
        (lambda table: table.drop(columns="near"), "near"),
        (lambda table: table.assign(extra=1), "extra"),
    ],
)
def test_a_wrong_manifest_is_refused_by_name_of_the_rule(change: Any, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule) as raised:
        validated(change(manifest()))
    assert len(str(raised.value)) < 2000


def test_swapped_rows_are_right_and_doubled_ones_wrong() -> None:
    table = manifest()
    first, second = table.index[table["split"] == "train"][:2]
    table.loc[[first, second], "row"] = table.loc[[second, first], "row"].to_numpy()
    validated(table)
    table.loc[first, "row"] = table.loc[second, "row"]
    with pytest.raises(AssertionError, match="each once"):
        validated(table)


def test_the_same_pixels_in_two_splits_are_an_error_unless_duplicates_are_kept() -> None:
    table = manifest()
    train, val = (table.index[table["split"] == split][0] for split in ("train", "val"))
    table.loc[train, "sha256"] = table.loc[val, "sha256"]
    with pytest.raises(AssertionError, match=f"No pixels are in two splits.*{table.loc[train, 'id']}"):
        validated(table)
    validated(table, duplicates=True)
    overlap = report.overlap(table)
    assert overlap == {"exact": 1, "near": 0}
    seen = Seen(page(table))
    assert "1 are in more than one split" in seen.text
    assert any(attributes.get("class") == "bad" for _, attributes in seen.tags)


def test_a_near_duplicate_that_was_kept_in_another_split_is_told() -> None:
    table = manifest()
    train, val = (table.index[table["split"] == split][0] for split in ("train", "val"))
    assert "0 are in more than one split" in Seen(page(table)).text
    assert "0 have a near duplicate in another split" in Seen(page(table)).text
    table.loc[train, "near"] = table.loc[val, "id"]
    assert "1 have a near duplicate in another split" in Seen(page(table)).text


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("unreadable (OSError)", "unreadable"),
        ("duplicate of a (1) of b.jpg", "duplicate"),
        ("near duplicate of new\nline (x", "near duplicate"),
        ("label conflict with b of c", "label conflict"),
        ("a link that leads out of the folder", "a link that leads out of the folder"),
        ("blank", "blank"),
    ],
)
def test_groups_are_the_fixed_words(reason: str, words: str) -> None:
    grouped = report.group(pd.Series([reason, None]))
    assert grouped[0] == words
    assert pd.isna(grouped[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 200), st.integers(1, 12), st.integers(0, 5))
def test_the_summary_accounts_for_every_sample(count: int, labels: int, seed: int) -> None:
    table = manifest(count, labels, seed)
    counts = json.loads(json.dumps(report.summary(table)))
    kept = table[table["reason"].isna()]
    assert counts["samples"] == count == counts["kept"] + sum(counts["dropped"].values())
    assert counts["splits"] == {split: Counter(kept["split"])[split] for split in ("train", "val", "test")}
    assert Counter({key: sum(splits.values()) for key, splits in counts["classes"].items()}) == Counter(kept["label"])
    # two flags of one group in one sample count once, and only kept samples count
    assert sum(counts["flagged"].values()) == (kept["flags"] != "").sum()


def test_numbers_ids_and_pictures_are_on_the_page() -> None:
    table = manifest()
    pictures = shown(table)
    seen = Seen(page(table, pictures, changes={"added": ["folder/7.jpg"], "removed": []}))
    for said in (
        "50 of 60 samples kept, 83.3 %",
        " 2 3.3 % folder/5.jpg OSError",
        "4×5",
        "added 1 folder/7.jpg removed 0",
    ):
        assert said in seen.text
    images = seen.images()
    (name, example), *_ = images
    assert name == pictures.dropped["too small"][0][0]
    assert (example == pixels(1, 5).transpose(1, 2, 0)).all()
    assert any(np.array_equal(image, pixels(4, channels=1)[0]) for _, image in images)
    assert max(max(image.shape) for _, image in images) == report.TWIN
    assert len(images) == 1 + 2 + 1 + 3 * 2


def test_the_page_is_whole_in_itself_and_forbids_the_rest() -> None:
    content = page(manifest(), shown(manifest()))
    seen = Seen(content)
    style = content[content.index("<style>") + len("<style>") : content.index("</style>")]
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [each["content"] for _, each in seen.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert f"style-src 'sha256-{allowed}'" in policy
    assert "unsafe" not in policy
    assert not {tag for tag, _ in seen.tags} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert not any(name in ("href", "style") or name.startswith("on") for _, each in seen.tags for name in each)
    assert all(each["src"].startswith("data:image/png;base64,") for tag, each in seen.tags if tag == "img")


def structure(table: pd.DataFrame, changes: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    tags = Seen(page(table, shown(table), changes=changes, trouble=table["id"].iloc[0])).tags
    return [(tag, [name if name != "class" else each[name] for name in each]) for tag, each in tags]


PLAIN = structure(manifest(labels=1), {"added": ["a", "b", "c"]})


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
@example(EVIL, EVIL)
def test_no_name_changes_what_the_page_is_made_of(name: str, label: str) -> None:
    # the same manifest under names of letters and under hostile ones: same elements, same attributes
    hostile = manifest(labels=1)
    hostile["id"] = hostile["id"] + name
    hostile["label"] = label
    hostile["reason"] = hostile["reason"].str.replace(r"(?<=of ).*", lambda _: name, regex=True)
    assert structure(hostile, {"added": [*hostile["id"][:3]]}) == PLAIN


def test_characters_that_hide_or_turn_text_are_spelt_out() -> None:
    table = manifest()
    table["id"] = table["id"] + EVIL
    table["label"] = EVIL
    content = page(table, shown(table), trouble=EVIL, changes={"removed": [EVIL]})
    assert not {"\u202e", "\x00"} & set(content)
    seen = Seen(content)
    assert "⟨U+202E⟩gpj.<script>alert(1)</script>⟨U+0000⟩\"'><img src=x onerror=alert(1)>" in seen.text
    assert "script" not in {tag for tag, _ in seen.tags}
    assert not any("onerror" in each for _, each in seen.tags)


@given(st.text(max_size=100), st.integers(3, 50))
def test_a_shortened_name_keeps_its_ends(name: str, length: int) -> None:
    short = report.shortened(name, length)
    assert len(short) <= length
    assert short == name or (name.startswith(short.split("…")[0]) and name.endswith(short[-(length // 2) :]))


@pytest.mark.parametrize(
    ("count", "total", "said"),
    [(0, 0, "0.0 %"), (0, 9, "0.0 %"), (1, 10**6, "< 0.1 %"), (10**6 - 1, 10**6, "> 99.9 %"), (9, 9, "100.0 %")],
)
def test_shares_say_none_and_all_only_where_it_is_so(count: int, total: int, said: str) -> None:
    assert report.share(count, total) == said


def test_of_a_thousand_classes_the_largest_and_the_smallest_are_shown() -> None:
    table = manifest(6000, labels=1000)
    table.loc[table["label"] == "class 7", "label"] = "class 1"  # the largest: ten kept, two dropped
    pictures = report.Pictures({}, [], {}, {label: [pixels(1)] * 10 for label in table["label"].unique()})
    seen = Seen(page(table, pictures))
    assert "999 classes" in seen.text
    assert "959 classes in between" in seen.text
    assert seen.words.count("class 1") == 2  # in the table and before its pictures
    assert len(seen.images()) == 40 * 5


def test_a_data_set_of_which_too_little_is_left_has_a_report_too() -> None:
    table = manifest()
    table[["split", "row"]] = None  # dividing it was not even tried
    seen = Seen(page(table, trouble="only 3 % survived"))
    assert any(each.get("class") == "trouble" for _, each in seen.tags)
    assert "only 3 % survived" in seen.text
    assert "undivided 50" in seen.text
    table["reason"] = "blank"
    assert "0 of 60 samples kept, 0.0 %" in Seen(page(table)).text
    assert "0 of 0 samples kept" in Seen(page(table.iloc[:0], versions=[])).text


def test_unlabelled_pictures_of_one_size_have_a_report() -> None:
    table = manifest().assign(label=None, width=32, height=32)
    seen = Seen(page(table, report.Pictures({}, [], {}, {"": [pixels(1)]})))
    assert "The samples have no labels." in seen.text
    assert "pictures of 32×32 pixels" in seen.text
    assert len(seen.images()) == 1


def test_the_bytes_are_the_same_in_another_process() -> None:
    command = (
        "import hashlib, test_data_report as t\n"
        "print(hashlib.sha256(t.page(t.manifest(), t.shown(t.manifest())).encode()).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.run([sys.executable, "-c", command], env=env, capture_output=True, text=True, check=True).stdout
    assert other.strip() == hashlib.sha256(page(manifest(), shown(manifest())).encode()).hexdigest()
