"""Drift is found where images or classes changed, and nowhere else: on real images, and against closed forms."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, Project
from PIL import Image, ImageFilter
from scipy.stats import chi2_contingency, ks_2samp

from aigc_tasks import drift, layout
from aigc_tasks.clean import profile
from aigc_tasks.clean.profile import Profile
from aigc_tasks.drift import comparison
from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image

COUNT = 300  # images of a set


@dataclass
class Images:
    """Images, uint8 N×C×H×W, their classes and all that a profile says of them."""

    pixels: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        self.embedding = profile.embedding(self.pixels)
        flat = self.pixels.reshape(len(self.pixels), -1).astype(float)
        size = np.broadcast_to(self.pixels.shape[:1:-1], (len(flat), 2))
        self.statistics = np.column_stack([size, flat.mean(1), flat.std(1)]).astype(np.float32)
        self.shas = np.array([hashlib.sha256(one.tobytes()).hexdigest() for one in self.pixels])

    def profile(self, rows: np.ndarray, most: int = profile.MOST) -> Profile:
        """Of some of the images, as the clean stage writes it."""
        some = rows[np.argsort(self.shas[rows], kind="stable")][:most]
        classes, counts = np.unique(self.labels[rows], return_counts=True)
        digest = profile.digest(self.shas[rows], map(str, self.labels[rows]))
        return Profile(
            self.embedding[some], self.statistics[some], np.searchsorted(classes, self.labels[some]),
            [str(name) for name in classes], counts, digest, self.shas[some].tolist(),
        )  # fmt: skip

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> Images:
        return Images(change(self.pixels), self.labels)

    def under(self, labels: np.ndarray) -> Images:
        return Images(self.pixels, labels)


def idx(path: Path) -> np.ndarray:
    with gzip.open(path) as file:
        content = file.read()
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def idx_images(name: str) -> Images:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    pixels, labels = (idx(folder / f"t10k-{part}-ubyte.gz") for part in ("images-idx3", "labels-idx1"))
    return Images(pixels[:2500, None], labels[:2500])


@pytest.fixture(scope="module")
def mnist() -> Images:
    return idx_images("mnist")


@pytest.fixture(scope="module")
def digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    return Images((found.images[:, None] * 15.9).astype(np.uint8), found.target)


@pytest.fixture(scope="module")
def cifar() -> Images:
    """Every eighth of the JPEG files that others have not touched."""
    path = SHARED / "cifar10-jpg/test.zip"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[::8]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names])
    labels = np.unique([name.split("/")[1] for name in names], return_inverse=True)[1]
    return Images(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels)


SETS = ("mnist", "cifar", "digits")


@pytest.fixture
def images(request: pytest.FixtureRequest) -> Images:
    return request.getfixturevalue(request.param)


def halves(images: Images, seed: int, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two sets that have no image in common."""
    rows = np.random.default_rng(seed).permutation(len(images.pixels))
    return rows[:count], rows[count : 2 * count]


@pytest.mark.slow
@pytest.mark.parametrize("images", SETS, indirect=True)
def test_the_same_data_in_another_sample_is_no_alarm_in_20_seeds(images: Images) -> None:
    for seed in range(20):
        first, second = halves(images, seed)
        old = images.profile(first)
        resampled = np.random.default_rng(seed).choice(first, COUNT)
        assert drift.compare(old, images.profile(resampled)).verdict == "same"
        assert drift.compare(old, images.profile(second)).verdict == "grown"
        assert drift.compare(old, images.profile(np.concatenate([first, second]))).verdict == "grown"


@pytest.mark.parametrize("images", SETS, indirect=True)
def test_equal_data_are_the_same_in_any_order(images: Images) -> None:
    rows, _ = halves(images, 0)
    found = drift.compare(images.profile(rows), images.profile(rows[::-1]))
    assert (found.verdict, found.new, found.gone, found.exact) == ("same", 0, 0, True)
    assert {test.effect for test in found.tests} == {0}


@pytest.mark.parametrize("images", SETS, indirect=True)
def test_a_changed_class_mix_is_found(images: Images) -> None:
    for seed in range(3):
        first, second = halves(images, seed)
        in_class = first[images.labels[first] == seed]
        halved = np.setdiff1d(first, in_class[: len(in_class) // 2])
        for rows in (halved, np.setdiff1d(first, in_class), second[images.labels[second] != seed]):
            found = drift.compare(images.profile(first), images.profile(rows))
            assert found.verdict == "drifted"
            assert f"class {seed}" in {test.name for test in found.changed}


def blurred(pixels: np.ndarray) -> np.ndarray:
    soft = [np.asarray(image.picture(one).filter(ImageFilter.GaussianBlur(1))) for one in pixels]
    return np.stack([one[None] if one.ndim == 2 else one.transpose(2, 0, 1) for one in soft])


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.minimum(pixels.astype(int) + 25, 255).astype(np.uint8)


def tinted(pixels: np.ndarray) -> np.ndarray:
    """15 % orange."""
    return (0.85 * pixels + 0.15 * np.array([255, 128, 0])[:, None, None]).astype(np.uint8)


CHANGES = {
    "inverted": (lambda pixels: 255 - pixels, SETS),
    "brighter": (brighter, SETS),
    "blurred": (blurred, SETS),
    "swapped": (lambda pixels: np.ascontiguousarray(pixels[:, ::-1]), ("cifar",)),
    "tinted": (tinted, ("cifar",)),
    "upside down": (lambda pixels: np.ascontiguousarray(pixels[:, :, ::-1]), ("cifar",)),
}


@pytest.mark.parametrize(
    ("change", "images"), [(name, of) for name in CHANGES for of in CHANGES[name][1]], indirect=["images"]
)
def test_changed_pixels_are_found(images: Images, change: str) -> None:
    other = images.changed(CHANGES[change][0])
    for seed in range(3):
        first, second = halves(images, seed, 600 if change == "upside down" else COUNT)
        old = images.profile(first)
        assert drift.compare(old, other.profile(first)).verdict == "drifted"
        assert drift.compare(old, other.profile(second)).verdict == "drifted"


def test_another_set_is_found(mnist: Images) -> None:
    rows, _ = halves(mnist, 0)
    assert drift.compare(mnist.profile(rows), idx_images("fashion-mnist").profile(rows)).verdict == "drifted"


def test_a_few_percent_of_foreign_images_among_the_old_are_found(mnist: Images) -> None:
    first, second = halves(mnist, 0, 600)
    both = Images(np.concatenate([mnist.pixels, 255 - mnist.pixels]), np.tile(mnist.labels, 2))
    grown = np.concatenate([first, second[:60]])
    spoilt = np.concatenate([first, second[:60] + len(mnist.pixels)])
    assert drift.compare(both.profile(first), both.profile(grown)).verdict == "grown"
    assert drift.compare(both.profile(first), both.profile(spoilt)).verdict == "drifted"


def test_labels_that_are_gone_or_exchanged_are_found(digits: Images) -> None:
    rows, _ = halves(digits, 0)
    old = digits.profile(rows)
    unlabelled = replace(old, classes=[], labels=0 * old.labels, counts=np.array([COUNT]))
    assert drift.compare(old, unlabelled).verdict == "drifted"
    assert drift.compare(unlabelled, unlabelled).verdict == "same"
    counts = old.counts.copy()
    counts[[1, 2]] = counts[[1, 2]].sum(), 0
    confused = replace(old, labels=np.where(old.labels == 2, 1, old.labels), counts=counts)
    assert drift.compare(old, confused).verdict == "drifted"


def small(digits: Images, rows: np.ndarray, most: int = profile.MOST) -> tuple[Profile, np.ndarray]:
    """What ten classes of a hundred are like, all of them, and their rows."""
    thousand = np.concatenate([rows[digits.labels[rows] == label][:100] for label in range(10)])
    return digits.profile(thousand, most), thousand


@pytest.mark.parametrize("most", [profile.MOST, 60])
def test_a_small_set_of_one_class_has_drifted_and_a_resample_has_not(digits: Images, most: int) -> None:
    """Twenty images are two of each class: also where the trained model's profile is a sample."""
    for seed in range(20):
        rows = np.random.default_rng(seed).permutation(len(digits.labels))
        old, thousand = small(digits, rows, most)
        for new in (np.random.default_rng(seed).choice(thousand, 20), np.setdiff1d(rows, thousand)[::40]):
            assert not [test for test in drift.compare(old, digits.profile(new)).changed if "class" in test.name]
    one = drift.compare(old, digits.profile(thousand[300:320]))
    mix, single = one.tests[:2]
    assert (one.verdict, mix.name, mix.then, mix.now) == ("drifted", "class mix", "10 classes", "1 class")
    assert (single.name, single.then, single.now) == ("class 3", "10 %", "100 %")
    assert mix.changed
    assert single.changed


def test_labels_in_one_set_alone_are_a_difference_however_small_it_is(digits: Images) -> None:
    old, thousand = small(digits, np.arange(len(digits.labels)))
    some = digits.profile(thousand[::50])
    unlabelled = replace(some, classes=[], labels=0 * some.labels, counts=np.array([20]))
    for found, words in (
        (drift.compare(old, unlabelled), ("10 classes", "unlabelled")),
        (drift.compare(unlabelled, old), ("unlabelled", "10 classes")),
    ):
        assert [(test.name, test.then, test.now) for test in found.changed] == [("class labels", *words)]


LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exchanged": lambda labels: np.choose(labels, [0, 3, 2, 1, 4, 5, 6, 7, 8, 9]),
    "all one on": lambda labels: (labels + 1) % 10,
    "shuffled": lambda labels: np.random.default_rng(0).permutation(labels),
}


@pytest.mark.parametrize("change", LABELS)
@pytest.mark.parametrize("images", SETS, indirect=True)
def test_the_same_images_under_other_labels_are_found(images: Images, change: str) -> None:
    first, second = halves(images, 0)
    other = images.under(LABELS[change](images.labels))
    found = drift.compare(images.profile(first), other.profile(first))
    assert found.verdict == "drifted"
    assert found.new == found.gone == (images.labels[first] != other.labels[first]).sum()
    assert {"labels", "appearance in class"} & {test.name for test in found.changed}
    grown = other.profile(np.concatenate([first, second[:50]]))
    assert drift.compare(images.profile(first), grown).verdict == "drifted"


@pytest.mark.parametrize("change", ["all one on", "shuffled"])
@pytest.mark.parametrize("images", SETS, indirect=True)
def test_other_images_under_other_labels_are_found(images: Images, change: str) -> None:
    for seed in range(3):
        first, second = halves(images, seed, 600)
        found = drift.compare(images.profile(first), images.under(LABELS[change](images.labels)).profile(second))
        assert "appearance in class" in {test.name for test in found.changed}


def test_two_classes_of_ten_exchanged_are_found_among_other_images(mnist: Images, digits: Images) -> None:
    for images in (mnist, digits):
        first, second = halves(images, 0, 800)
        found = drift.compare(images.profile(first), images.under(LABELS["exchanged"](images.labels)).profile(second))
        assert [test.name for test in found.changed] == ["appearance in class"]


def test_a_few_labels_mended_are_no_drift_and_a_class_of_a_hundred_relabelled_is(mnist: Images) -> None:
    """The share of one class in a hundred is less than matters, among all; within the class everything changed."""
    rows, _ = halves(mnist, 0, 1200)
    fine = mnist.under(np.arange(len(mnist.labels)) % 99)
    mended = fine.labels.copy()
    mended[rows[:12]] += 1
    found = drift.compare(fine.profile(rows), fine.under(mended).profile(rows))
    assert found.verdict == "grown"
    assert 0 < found.new == found.gone <= 12
    relabelled = fine.under(np.where(fine.labels == 7, 8, np.where(fine.labels == 8, 7, fine.labels)))
    found = drift.compare(fine.profile(rows), relabelled.profile(rows))
    assert found.verdict == "drifted"
    assert {test.name for test in found.changed} <= {"labels of 7", "labels of 8"}


def test_what_is_new_is_never_called_the_same(mnist: Images) -> None:
    """Also where a profile of 400 of 2,000 images misses it."""
    rows = np.random.default_rng(0).permutation(len(mnist.pixels))[:2001]
    last = max(range(2000), key=lambda place: mnist.shas[rows[place]])
    without = np.delete(rows[:2000], last)
    for most in (400, profile.MOST):
        old = mnist.profile(rows[:2000], most)
        assert drift.compare(old, old).verdict == "same"
        assert drift.compare(old, mnist.profile(without, most)).verdict == "same"
        for new, count in ((rows, 1), (np.append(without, rows[2000]), 1)):
            found = drift.compare(old, mnist.profile(new, most))
            assert (found.verdict, found.new >= count, found.exact) == ("grown", True, most > 2000)


def test_a_million_images_cry_no_wolf_about_a_thousandth(digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = halves(digits, 0, 800)
    counts = np.array([500_000, 500_000]), np.array([501_000, 499_000])
    old, new = (
        replace(digits.profile(rows), classes=["a", "b"], labels=np.arange(800) % 2, counts=number)
        for rows, number in zip((first, second), counts, strict=True)
    )
    assert not drift.compare(old, new).changed
    shifted = replace(new, counts=np.array([530_000, 470_000]))
    assert [test.name for test in drift.compare(old, shifted).changed] == ["class mix", "class a"]
    monkeypatch.setattr(comparison, "SMALLEST", 0)
    assert drift.compare(old, replace(new, counts=np.array([505_000, 495_000]))).verdict == "drifted"


def test_overlap_is_estimated_from_the_lowest_hashes(mnist: Images) -> None:
    """Of 2,000 images 500 go and 300 come; a profile of all says so exactly, one of 400 about so."""
    rows = np.random.default_rng(0).permutation(len(mnist.pixels))
    old, new = rows[:2000], np.concatenate([rows[500:2000], rows[2000:2300]])
    found = drift.compare(mnist.profile(old), mnist.profile(new))
    assert (found.then, found.now, found.new, found.gone, found.exact) == (2000, 1800, 300, 500, True)
    found = drift.compare(mnist.profile(old, 400), mnist.profile(new, 400))
    assert (found.verdict, found.then, found.now, found.exact) == ("grown", 2000, 1800, False)
    assert found.new == pytest.approx(300, abs=120)
    assert found.gone == pytest.approx(500, abs=150)
    cut = new[mnist.labels[new] != 4]
    assert drift.compare(mnist.profile(old, 400), mnist.profile(cut, 400)).verdict == "drifted"


def test_statistics_are_those_of_scipy(cifar: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sets have nothing in common and every difference matters."""
    monkeypatch.setattr(comparison, "SMALLEST", 0)
    first, second = halves(cifar, 0, 400)
    found = {test.name: test for test in drift.compare(cifar.profile(first), cifar.profile(second)).tests}
    classes = chi2_contingency([np.bincount(cifar.labels[rows], minlength=10) for rows in (first, second)])
    assert (found["class mix"].statistic, found["class mix"].p) == pytest.approx((classes.statistic, classes.pvalue))
    for name, column in (("brightness", 2), ("contrast", 3)):
        gap = ks_2samp(cifar.statistics[first, column], cifar.statistics[second, column], method="asymp")
        assert found[name].statistic == pytest.approx(gap.statistic)
        assert found[name].p == pytest.approx(gap.pvalue, abs=0.03)  # scipy's for 200, ours for ever more
    one, other = (cifar.embedding[rows].astype(float) for rows in (first, second))
    both = np.concatenate([one, other])
    apart = ((both[:, None] - both) ** 2).sum(2)
    kernel = np.exp(-apart / 2 / np.median(apart[np.triu_indices(800, 1)]))
    squared = kernel[:400, :400].mean() + kernel[400:, 400:].mean() - 2 * kernel[:400, 400:].mean()
    assert found["appearance"].statistic == pytest.approx(np.sqrt(squared))


@pytest.mark.parametrize("common", [0, 200])
def test_p_values_are_not_smaller_than_they_may_be(
    digits: Images, monkeypatch: pytest.MonkeyPatch, common: int
) -> None:
    """Without a smallest effect p is uniform; also where the sets have most images in common."""
    monkeypatch.setattr(comparison, "SMALLEST", 0)
    monkeypatch.setattr(comparison, "SHUFFLES", 199)
    found = []
    for seed in range(100):
        rows = np.random.default_rng(seed).permutation(len(digits.pixels))
        old, new = digits.profile(rows[:300]), digits.profile(rows[300 - common : 600 - common])
        tests = drift.compare(old, new).tests  # a residual is the largest of several; no label changes by chance
        found.append([test.p for test in tests if test.method not in ("largest residual", "exact binomial")])
    assert (np.mean(np.array(found) < 0.2, axis=0) < 0.2 + 3 * 0.04).all()
    assert (np.mean(np.array(found) < 0.5, axis=0) > 0.2).all()


def test_holm_asks_more_of_each_the_more_there_are() -> None:
    tests = [comparison.Test(str(p), "", "", "", 0, 0, p) for p in (0.004, 0.002, 0.2, 0.006)]
    assert [test.name for test in comparison.holm(tests) if test.changed] == ["0.002"]  # 0.004 > 0.01 / 3
    assert [test.name for test in comparison.holm(tests[:2]) if test.changed] == ["0.004", "0.002"]


@pytest.mark.parametrize("shape", [(32, 32), (28, 28), (8, 8), (37, 5), (3, 100)])
def test_the_embedding_is_area_means_and_moments(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, *shape), np.uint8)
    found = profile.embedding(pixels)
    assert (found.shape, found.dtype) == ((5, 70), np.float32)
    luma = np.einsum("c,nchw->nhw", [0.299, 0.587, 0.114], pixels)
    fine = luma.repeat(8, axis=1).repeat(8, axis=2).reshape(5, 8, shape[0], 8, shape[1])
    np.testing.assert_allclose(255 * found[:, :64], fine.mean((2, 4)).reshape(5, 64), atol=0.01)
    moments = [pixels.mean((2, 3)), pixels.std((2, 3))]
    np.testing.assert_allclose(255 * found[:, 64:], np.concatenate(moments, axis=1), rtol=1e-6)


def test_a_grey_image_is_embedded_as_its_coloured_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 19, 23), np.uint8)
    whole = profile.embedding(pixels)
    monkeypatch.setattr(profile, "BLOCK", 2 * 19 * 23)
    assert (profile.embedding(pixels) == whole).all()
    assert (profile.embedding(image.coloured(pixels, 3)) == whole).all()
    assert profile.embedding(pixels[:0]).shape == (0, 70)


def test_a_profile_is_read_as_it_was_written_and_has_one_form(digits: Images, tmp_path: Path) -> None:
    one = digits.profile(np.arange(50))
    for written in (one, replace(one, classes=[], labels=0 * one.labels, counts=np.array([50]))):
        profile.write(tmp_path / "first.npz", written)
        profile.write(tmp_path / "second.npz", profile.read(tmp_path / "first.npz"))
        assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
        for field in fields(written):
            assert np.array_equal(
                getattr(profile.read(tmp_path / "first.npz"), field.name), getattr(written, field.name)
            )
    with zipfile.ZipFile(tmp_path / "first.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_is_no_profile_is_said_in_one_line(digits: Images, tmp_path: Path) -> None:
    path, good = tmp_path / "profile.npz", digits.profile(np.arange(20))
    profile.write(path, good)
    content = path.read_bytes()
    with np.load(path) as archive:
        arrays = dict(archive)
    wrong = {
        "embedding": [arrays["embedding"][:5], arrays["embedding"] * np.nan], "counts": [arrays["counts"][:3]],
        "labels": [arrays["labels"] + 90, arrays["labels"] - 1], "shas": [np.array([{}] * 20)],
        "digest": [np.arange(3)],
    }  # fmt: skip
    broken = [b"", b"PK", content[:2000], content[:-30], b"\x93NUMPY" + content]
    for name, values in wrong.items():
        for value in values:
            file = io.BytesIO()
            np.savez(file, **{**arrays, name: value}, allow_pickle=True)
            broken.append(file.getvalue())
    for part in broken:
        path.write_bytes(part)
        with pytest.raises(UserError, match=r"profile.npz: .*dvc checkout") as error:
            profile.read(path)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_drift_of_a_recipe_is_told_and_drawn(here: Project, digits: Images) -> None:
    trained, cleaned = layout.model("digits-gan") / "profile.npz", layout.clean("digits") / "profile.npz"
    with pytest.raises(UserError, match=r"data/models/digits-gan/profile.npz: .*aigc run digits-gan$"):
        drift.drift("digits-gan")
    first, second = halves(digits, 0)
    profile.write(trained, digits.profile(first))
    with pytest.raises(UserError, match=r"data/clean/digits/profile.npz: .*dvc repro clean@digits$"):
        drift.drift("digits-gan")
    both = digits.profile(np.concatenate([first[5:], second]))
    for new, words in ((second, "has been replaced by 300 new images"), (first[5:], "has nothing new")):
        profile.write(cleaned, digits.profile(new))
        assert words in drift.drift("digits-gan")
    profile.write(cleaned, both)
    assert "has 300 new images, of the kind the model was trained on, and 5 are gone" in drift.drift("digits-gan")
    report, pictures = layout.report("digits-gan"), []
    inverted = digits.changed(lambda pixels: 255 - pixels).profile(second)
    for verdict, new in {"same": digits.profile(first), "grown": digits.profile(second), "drifted": inverted}.items():
        profile.write(cleaned, new)
        said = drift.drift("digits-gan")
        assert said.startswith(f"digits-gan: {verdict}: ")
        assert str(report / "drift.png") in said
        found = json.loads((report / "drift.json").read_text())
        assert found["verdict"] == verdict
        assert verdict != "drifted" or [test["name"] for test in found["tests"] if test["changed"]]
        pictures.append((report / "drift.png").read_bytes())
        assert Image.open(report / "drift.png").size[0] > 1000
        assert drift.drift("digits-gan") == said
        assert (report / "drift.png").read_bytes() == pictures[-1]
    assert len(set(pictures)) == 3
    assert {path.name for path in report.iterdir()} == {"drift.json", "drift.png"}
