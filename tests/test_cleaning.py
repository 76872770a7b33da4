"""From raw entries to arrays: what is dropped and why, how the rest is divided, and that nothing else matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import imagehash
import numpy as np
import pandas as pd
import pytest
from conftest import Project
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise, photograph
from PIL import Image
from pydantic import Field
from test_data_report import Seen

from aigc_tasks import acquire, drift, layout
from aigc_tasks.acquire import intake, raw
from aigc_tasks.clean import Checks, Knobs, arrays, duplicates, hashes, looking, outliers, profile, splitting
from aigc_tasks.clean.cleaning import clean
from aigc_tasks.errors import UserError

Content = dict[str, tuple[bytes, str | None]]  # by id: an encoded file and its label


class Source(acquire.Source):
    """A source that holds its files in memory."""

    kind: Literal["memory"]
    content: dict[str, Any] = Field(exclude=True)

    def entries(self, work: Path) -> Iterator[acquire.Entry]:
        for id, (content, label, *split) in sorted(self.content.items()):
            yield acquire.Entry(id, label, split[0] if split else None, None, lambda content=content: content)


def photographs(count: int, label: str | None = None, start: int = 0) -> Content:
    return {f"{label or 'x'}/{n:04d}.png": (encoded(photograph(n)), label) for n in range(start, start + count)}


Cleaned = Callable[..., tuple[arrays.Clean, pd.DataFrame]]


@pytest.fixture
def cleaned(here: Project) -> Cleaned:
    """Takes files in and cleans them; returns the arrays and the manifest by id."""

    def run(content: Content, name: str = "pics", **knobs: Any) -> tuple[arrays.Clean, pd.DataFrame]:
        work = layout.LOCAL / "acquire" / name
        source = Source.model_construct(kind="memory", content=content)
        intake.take_in(source, layout.raw(name), work)
        entry = {"acquire": {"kind": "digits"}, "clean": knobs, "features": {}}
        here.edit(lambda params: params["datasets"].update({name: entry}))
        clean(name)
        manifest = pd.read_parquet(layout.clean(name) / "manifest.parquet").set_index("id")
        return arrays.load(layout.clean(name)), manifest

    return run


def outputs(name: str = "pics") -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in layout.clean(name).iterdir()}


def test_every_entry_is_accounted_for(cleaned: Cleaned) -> None:
    good = photographs(60, "a") | photographs(40, "b", 100)
    whole = encoded(photograph(3))
    small = photograph(5).resize((24, 24), Image.Resampling.LANCZOS)
    bad: Content = {
        "a/again.png": (whole, "a"),
        "a/again.bmp": (encoded(photograph(4), "BMP"), "a"),
        "a/near.jpg": (encoded(photograph(5), "JPEG", quality=60), "a"),
        "a/small.png": (encoded(small), "a"),
        "b/conflict.png": (encoded(photograph(7)), "b"),
        "a/tiny.png": (encoded(noise(1, size=(5, 9))), "a"),
        "a/strip.png": (encoded(noise(1, size=(90, 20))), "a"),
        "a/blank.png": (encoded(Image.new("RGB", (48, 48), "red")), "a"),
        "a/cut.png": (encoded(noise(9, size=(64, 64)))[:-5000], "a"),
        "a/notes.txt": (b"look", "a"),
        "a/empty.jpg": (b"", "a"),
    }
    data, manifest = cleaned(good | bad, size=32)
    reasons = manifest["reason"].dropna()
    assert len(manifest) == 111
    assert reasons["a/blank.png"] == "blank"
    assert reasons["a/cut.png"] == "truncated"
    assert reasons["a/notes.txt"] == "not a picture"
    assert reasons["a/empty.jpg"] == "unreadable (empty file)"
    assert reasons["a/tiny.png"] == "too small (5×9)"
    assert reasons["a/strip.png"] == "extreme aspect (90×20)"
    twins = {
        "duplicate of": [{"a/0003.png", "a/again.png"}, {"a/0004.png", "a/again.bmp"}],
        "label conflict with": [{"a/0007.png", "b/conflict.png"}] * 2,
        "near duplicate of": [{"a/0005.png", "a/near.jpg", "a/small.png"}] * 2,
    }
    for words, groups in twins.items():
        found = reasons[reasons.str.startswith(words)]
        assert len(found) == 2
        for id, said in found.items():
            assert {id, said.removeprefix(f"{words} ")} <= set().union(*groups)
            assert manifest.loc[id, "near"] == said.removeprefix(f"{words} ")
    assert len(reasons) == 12
    kept = manifest[manifest["reason"].isna()]
    assert sum(len(getattr(data, split).images) for split in arrays.SPLITS) == len(kept) == 99
    report = json.loads((layout.clean("pics") / "report.json").read_text())
    assert report["samples"] == 111
    assert report["kept"] == 99
    assert sum(report["dropped"].values()) == 12
    page = layout.data_report("pics").read_text()
    assert "near duplicate" in page
    assert "a/near.jpg" in page


SWITCHES = {
    "too_small": ({"a.png": (encoded(noise(1, size=(5, 9))), None)}, "too small (5×9)"),
    "extreme_aspect": ({"a.png": (encoded(noise(1, size=(90, 20))), None)}, "extreme aspect (90×20)"),
    "blank": ({"a.png": (encoded(Image.new("RGB", (48, 48), "red")), None)}, "blank"),
    "duplicate": ({"y.png": (encoded(photograph(3)), None)}, "duplicate of x/0003.png"),
    "near_duplicate": ({"y.jpg": (encoded(photograph(3), "JPEG"), None)}, "near duplicate of x/0003.png"),
    "wrong_type": ({"a.jpg": (encoded(photograph(99)), None)}, "wrong type (PNG behind .jpg)"),
    "odd_mode": ({"a.png": (encoded(photograph(99).convert("RGBA").rotate(9)), None)}, "odd mode"),
}


@pytest.mark.parametrize("check", SWITCHES)
def test_every_check_can_drop_flag_or_be_off(cleaned: Cleaned, check: str) -> None:
    planted, reason = SWITCHES[check]
    for policy in ("drop", "flag", "off"):
        others = {"near_duplicate": "off"} if check == "duplicate" else {}  # the same is also almost the same
        _, manifest = cleaned(photographs(30) | planted, size=32, checks={check: policy, **others})
        said = manifest[["reason", "flags"]].fillna("").agg("".join, axis=1)
        assert said.str.startswith(reason.split(" of ")[0]).sum() == (policy != "off")
        assert manifest["reason"].notna().sum() == (policy == "drop")


def test_the_black_beside_a_padded_picture_is_no_contrast(cleaned: Cleaned) -> None:
    blank = {f"x/blank{n}.png": (encoded(Image.new("RGB", (48, 40 + n), "white")), None) for n in (0, 8)}
    _, manifest = cleaned(photographs(30) | blank, size=32, crop="pad", checks={"duplicate": "off"})
    assert manifest["reason"].dropna().to_dict() == dict.fromkeys(blank, "blank")


def test_a_test_images_twin_is_not_learned_from(cleaned: Cleaned) -> None:
    train = {f"train/{n}.png": (encoded(photograph(n)), None, "train") for n in range(40)}
    test = {f"test/{n}.jpg": (encoded(photograph(n), "JPEG"), None, "test") for n in range(10)}
    exact = {f"test/{n}.png": (encoded(photograph(n)), None, "test") for n in range(10, 20)}
    _, manifest = cleaned(train | test | exact, size=32)
    for n in range(10):
        assert manifest.loc[f"train/{n}.png", "reason"] == f"near duplicate of test/{n}.jpg"
    for n in range(10, 20):
        assert manifest.loc[f"train/{n}.png", "reason"] == f"duplicate of test/{n}.png"
    assert set(manifest.loc[[*test, *exact], "split"]) == {"test"}


def test_a_sample_keeps_its_split_while_the_set_grows_and_shrinks(cleaned: Cleaned) -> None:
    content = photographs(150, "a")
    _, before = cleaned(content, size=32)
    first = outputs()
    grown = {id: entry for id, entry in content.items() if id not in {"a/0000.png", "a/0001.png"}}
    _, after = cleaned(grown | photographs(50, "b", 500), size=32)
    common = after.index.intersection(before.index)
    assert len(common) == 148
    assert (after.loc[common, "split"] == before.loc[common, "split"]).all()
    cleaned(content, size=32)
    assert outputs() == first
    assert len(raw.versions(layout.raw("pics"))) == 3


def test_growing_gives_the_bytes_of_a_fresh_start(cleaned: Cleaned) -> None:
    content = photographs(80, "a") | photographs(40, "b", 200)
    cleaned(dict(list(content.items())[::2]), size=32)
    cleaned(content, size=32)
    cleaned(content, name="fresh", size=32)
    assert outputs("pics") == outputs("fresh")
    assert "This is the first version." in layout.data_report("fresh").read_text()
    assert "Since version 1:" in layout.data_report("pics").read_text()  # it alone says how the set came to be


def test_the_report_says_what_changed_since_the_version_before(cleaned: Cleaned) -> None:
    content = photographs(40, "a") | photographs(30, "b", 200)
    cleaned(content, size=32)
    assert "This is the first version." in Seen(layout.data_report("pics").read_text()).text

    content |= photographs(2, "c", 500) | {"a/0003.png": (encoded(photograph(900)), "a")}  # new, and new content
    content |= {"a/0004.png": (content["a/0004.png"][0], "b"), "b/0205.png": (*content["b/0205.png"], "test")}
    del content["b/0229.png"]
    cleaned(content, size=32)
    page = layout.data_report("pics").read_text()
    said = "added 2 c/0500.png , c/0501.png changed 3 a/0003.png , a/0004.png , b/0205.png removed 1 b/0229.png"
    assert f"Since version 1: {said} version" in Seen(page).text
    assert "removed" not in (layout.clean("pics") / "report.json").read_text()
    clean("pics")
    assert layout.data_report("pics").read_text() == page

    del content["c/0500.png"]
    cleaned(content | {"b/0229.png": (encoded(photograph(229)), "b")}, size=32)
    page = layout.data_report("pics").read_text()
    assert "Since version 2: added 1 b/0229.png changed 0 removed 1 c/0500.png version" in Seen(page).text
    with pytest.raises(UserError, match=r"clean.survive"):
        cleaned(photographs(20) | {f"{n}.jpg": (b"x", None) for n in range(30)}, size=32)
    assert "Since version 3: added 50 0.jpg , 1.jpg ," in Seen(layout.data_report("pics").read_text()).text


def test_the_profiles_digest_knows_the_labels(cleaned: Cleaned) -> None:
    content = photographs(30, "a") | photographs(30, "b", 200)
    other = {"a": "b", "b": "a"}
    digests = set()
    for name, labels in {"pics": {"a": "a", "b": "b"}, "exchanged": other, "unlabelled": {}}.items():
        cleaned({id: (file, labels.get(str(label))) for id, (file, label) in content.items()}, name, size=32)
        digests.add(profile.read(layout.clean(name) / "profile.npz").digest)
    assert len(digests) == 3
    found = drift.compare(*(profile.read(layout.clean(name) / "profile.npz") for name in ("pics", "exchanged")))
    assert (found.verdict, found.new, found.gone) == ("drifted", 60, 60)


def test_only_what_is_new_is_looked_at(cleaned: Cleaned, monkeypatch: pytest.MonkeyPatch) -> None:
    content = photographs(120)
    cleaned(content, size=32)
    opened, real = [], looking.decoded
    monkeypatch.setattr(looking, "decoded", lambda data, id, knobs: opened.append(id) or real(data, id, knobs))
    more = photographs(10, start=500)
    cleaned(content | more, size=32)
    assert sorted(opened) == sorted(more)
    opened.clear()
    cleaned(content | more, size=32, val=0.3)
    assert opened == []
    cleaned(content | more, size=24)
    assert len(opened) == 130


@pytest.mark.slow
def test_the_number_of_processes_does_not_matter(cleaned: Cleaned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "FEW", 0)
    written = []
    for workers in ("1", "3"):
        monkeypatch.setenv(looking.WORKERS, workers)
        cleaned(photographs(1200), name=f"pics{workers}", size=16)
        written.append(outputs(f"pics{workers}"))
    assert written[0] == written[1]


def test_too_little_left_is_one_line_that_names_the_report(cleaned: Cleaned) -> None:
    with pytest.raises(UserError) as error:
        cleaned(photographs(20) | {f"{n}.jpg": (b"x", None) for n in range(30)}, size=32)
    assert "clean.survive: 20 of 50 entries are usable, at least 50% must be" in str(error.value)
    assert "most others: unreadable (30)" in str(error.value)
    assert str(layout.data_report("pics")) in str(error.value)
    assert "\n" not in str(error.value)
    assert "unreadable" in layout.data_report("pics").read_text()
    assert not layout.clean("pics").exists()


def test_the_manifest_holds_the_pixels_own_hash(cleaned: Cleaned) -> None:
    data, manifest = cleaned(photographs(30, "a"))
    for split in arrays.SPLITS:
        for id, row in manifest[manifest["split"] == split].iterrows():
            pixels = getattr(data, split).images[row["row"]]
            assert (pixels == np.asarray(photograph(int(str(id)[2:6]))).transpose(2, 0, 1)).all()
            content = repr(pixels.shape).encode() + pixels.transpose(1, 2, 0).tobytes()
            assert row["sha256"] == hashlib.sha256(content).hexdigest()


def table(count: int, seed: int = 0) -> pd.DataFrame:
    """Rows of samples that nothing is known of but their hashes."""
    digests = [hashlib.sha256(f"{seed}/{n}".encode()).hexdigest() for n in range(count)]
    empty = pd.Series([None] * count, dtype="str")
    return pd.DataFrame(
        {
            "id": [f"{n:05d}" for n in range(count)],
            "sha256": digests,
            "file_sha256": digests,
            "split": empty,
            "reason": empty,
        }
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(4000, 6000), st.randoms())
def test_shares_hold_and_a_place_depends_on_nothing_else(seed: int, count: int, random: Any) -> None:
    rows, knobs = table(count, seed), Knobs(seed=seed)
    splits = splitting.assigned(rows, knobs)
    shares = splits.value_counts(normalize=True)
    for split, share in (("test", knobs.test), ("val", knobs.val)):
        assert abs(shares[split] - share) < 5 * (share * (1 - share) / count) ** 0.5
    some = rows.sample(frac=0.3, random_state=random.randrange(1 << 30))
    assert (splitting.assigned(some, knobs) == splits[some.index]).all()


def test_another_seed_divides_differently() -> None:
    assert (splitting.assigned(table(100), Knobs()) != splitting.assigned(table(100), Knobs(seed=1))).any()


@pytest.mark.parametrize("count", range(6, 14))
def test_even_few_samples_give_three_splits(count: int) -> None:
    for seed in range(20):
        rows = table(count, seed)
        rows["split"] = splitting.assigned(rows, Knobs())
        splitting.numbered(rows, Knobs(), rows["split"] == "nowhere")
        assert rows["split"].value_counts().min() >= splitting.LEAST


def test_what_the_source_calls_test_is_never_trained_on() -> None:
    for seed in range(20):
        rows = table(40, seed)
        rows.loc[:33, "split"] = "test"
        brought = rows["split"] == "test"
        rows["split"] = splitting.assigned(rows, Knobs())
        splitting.numbered(rows, Knobs(), brought)
        assert (rows["split"][brought] == "test").all()
        assert rows["split"].value_counts().min() >= splitting.LEAST


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8), st.integers(0, 10**6))
def test_close_hashes_are_found_as_by_comparing_all(distance: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    flips = np.array(
        [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 11), False)) for _ in range(120)], "u8"
    )
    hashes = base[rng.integers(0, 40, 120)] ^ flips
    every = [
        (i, j) for i in range(120) for j in range(i + 1, 120) if int(hashes[i] ^ hashes[j]).bit_count() <= distance
    ]
    first, second = duplicates.candidates(hashes, distance)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == every


def test_a_thousand_frames_of_a_scene_are_a_thousand_comparisons() -> None:
    scene = np.asarray(photograph(1)).transpose(2, 0, 1)
    rows = pd.DataFrame({"hash": np.full(20_000, 7, np.uint64)})
    given = []

    def gather(some: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        given.append(len(some))
        yield some, np.broadcast_to(scene, (len(some), *scene.shape))

    twin = duplicates.pairs(rows, np.arange(20_000)[::-1], 4, gather)
    assert set(twin.values()) == {19_999}
    assert len(twin) == 19_999
    assert sum(given) == 20_000


@pytest.mark.slow
def test_what_ends_its_process_is_found_and_the_rest_is_kept(
    cleaned: Cleaned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A decoder that dies is made by hand: none is known that does."""
    (tmp_path / "sitecustomize.py").write_text(
        "import io, os\nfrom PIL import Image\nreal = Image.open\n"
        "def deadly(file, *a, **k):\n    if b'DEADLY' in file.getvalue(): os.abort()\n    return real(file, *a, **k)\n"
        "Image.open = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(looking, "FEW", 0)
    monkeypatch.setenv(looking.WORKERS, "2")
    content = photographs(30) | {f"y/{n}.png": (encoded(photograph(99)) + b"DEADLY", None) for n in range(2)}
    _, manifest = cleaned(content, size=16)
    assert set(manifest.index[manifest["reason"] == looking.DEADLY]) == {"y/0.png", "y/1.png"}
    assert manifest["reason"].notna().sum() == 2


def test_a_number_of_processes_that_is_none_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("0", "many", "-1"):
        monkeypatch.setenv(looking.WORKERS, wrong)
        with pytest.raises(UserError, match="AIGC_WORKERS: expected a whole number"):
            looking.workers()


def test_without_a_size_the_first_picture_that_is_there_decides(cleaned: Cleaned) -> None:
    others = {f"b{n:02d}.png": (encoded(noise(n, size=(32, 32))), None) for n in range(40)}
    cleaned(others)
    with pytest.raises(UserError, match="40 of 41 images have another size"):
        cleaned(others | {"a.png": (encoded(noise(99, size=(28, 28))), None)})
    _, manifest = cleaned(others)
    assert manifest["reason"].isna().all()


def test_the_perceptual_hash_is_the_librarys() -> None:
    flat = [Image.new("L", (32, 32), level) for level in (0, 7, 255)]
    grey = [noise(seed, size=(32, 32)).convert("L") for seed in range(20)] + flat
    expected = [int(str(imagehash.phash(one)), 16) for one in grey]
    assert hashes.perceptual(grey).tolist() == expected
    assert [hashes.perceptual([one]).item() for one in grey] == expected

    pictures = [noise(seed, size=(64, 64)) for seed in range(20)]
    ours = hashes.perceptual(pictures).tolist()
    theirs = [int(str(imagehash.phash(one)), 16) for one in pictures]
    apart = [(one ^ other).bit_count() for one, other in zip(ours, theirs, strict=True)]
    assert np.mean(apart) < 4  # the picture is reduced by another filter
    assert min((ours[0] ^ other).bit_count() for other in theirs[1:]) > 16


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 9, 256), dtype=np.uint8)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]
    assert duplicates.correlation(one, other) == pytest.approx(expected, abs=1e-5)


def test_what_lies_far_off_is_flagged_and_kept(cleaned: Cleaned) -> None:
    odd = {"odd.png": (encoded(noise(1, size=(48, 48)).point(lambda level: 255 * (level > 127))), None)}
    _, manifest = cleaned(photographs(400) | odd, size=32)
    assert manifest.loc["odd.png", "flags"] == "outlier"
    assert manifest.loc["odd.png", "split"] in arrays.SPLITS
    assert (manifest["flags"] == "outlier").mean() < 0.02
    assert manifest["outlier"].idxmax() == "odd.png"


def test_a_cloud_has_few_outliers_and_hides_none() -> None:
    cloud = np.random.default_rng(0).normal(size=(4000, 20)).astype(np.float32)
    cloud[:40] += 12
    distance = outliers.Distance(cloud)
    far = distance(cloud) > distance.limit
    assert far[:40].all()
    assert far[40:].sum() <= 4


def test_checks_are_validated(here: Project) -> None:
    entry = {"acquire": {"kind": "digits"}, "clean": {"checks": {"blanc": "drop"}}, "features": {}}
    here.edit(lambda params: params["datasets"].update(pics=entry))
    with pytest.raises(UserError, match=r"datasets.pics.clean.checks.blanc: unknown key; did you mean 'blank'"):
        clean("pics")
    assert Checks().blank == "drop"
