"""Acquire and clean: what comes in, what is dropped and why, how it is divided."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Project
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_tasks.acquire import Sample, mnist
from aigc_tasks.clean import Knobs, arrays
from aigc_tasks.clean.cleaning import checked, divided
from aigc_tasks.errors import UserError


def samples(labels: list[str], split: str | None = None, seed: int = 0) -> list[Sample]:
    """Random 4×4 images, one per label."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 1, 4, 4), dtype=np.uint8)
    return [
        Sample(f"{split}/{i}", "here", label, split, image)
        for i, (label, image) in enumerate(zip(labels, pixels, strict=True))
    ]


def division(given: list[Sample], knobs: Knobs = Knobs()) -> pd.DataFrame:  # noqa: B008 (frozen)
    return divided(checked(iter(given))[0], knobs)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(20, 60), min_size=1, max_size=5), st.integers(0, 5), st.randoms())
def test_splits_are_stratified_disjoint_and_independent_of_order(counts: list[int], seed: int, random: object) -> None:
    given_samples = samples([str(label) for label, count in enumerate(counts) for _ in range(count)])
    knobs = Knobs(seed=seed)
    first = division(given_samples, knobs)
    random.shuffle(given_samples)  # type: ignore[attr-defined]
    second = division(given_samples, knobs)
    assert first.set_index("id")["split"].to_dict() == second.set_index("id")["split"].to_dict()
    for label, count in enumerate(counts):
        found = first[first["label"] == str(label)]["split"].value_counts()
        assert found["val"] == round(knobs.val * count)
        assert found["test"] == round(knobs.test * count)
        assert found.sum() == count


def test_another_seed_divides_differently() -> None:
    given_samples = samples(["a"] * 100)
    assert (division(given_samples)["split"] != division(given_samples, Knobs(seed=1))["split"]).any()


def test_what_is_dropped_says_why() -> None:
    good = samples(["a"] * 30)
    twin = good[3]._replace(id="twin")
    blank = good[0]._replace(id="blank", image=np.full((1, 4, 4), 7, np.uint8))
    odd = good[0]._replace(id="odd", image=good[0].image[:, :3])
    deep = good[0]._replace(id="deep", image=good[0].image.astype(np.uint16))
    manifest = division([*good, twin, blank, odd, deep]).set_index("id")
    assert manifest.loc["twin", "reason"] == "duplicate of None/3"
    assert manifest.loc["blank", "reason"] == "blank"
    assert manifest.loc["odd", "reason"] == "size differs (1×3×4)"
    assert manifest.loc["deep", "reason"] == "pixels are uint16, not 8-bit"
    dropped = manifest[manifest["reason"].notna()]
    assert len(dropped) == 4
    assert dropped["split"].isna().all()


def test_a_sources_own_test_split_stays_and_its_twins_leave_training() -> None:
    train, test = samples(["a"] * 50, "train"), samples(["a"] * 20, "test", seed=1)
    leaked = train[0]._replace(id="leaked", image=test[0].image)
    manifest = division([*train, leaked, *test]).set_index("id")
    assert set(manifest.loc[[sample.id for sample in test], "split"]) == {"test"}
    assert (manifest["split"] == "test").sum() == 20
    assert manifest.loc["leaked", "reason"] == "duplicate of test/0"


def test_digits_come_out_as_arrays_and_an_account_of_every_sample(project: Project) -> None:
    project.check("python", "-m", "aigc_tasks.acquire", "digits")
    project.check("python", "-m", "aigc_tasks.clean", "digits")
    folder = project.path / "data/clean/digits"
    data = arrays.load(folder)
    manifest = pd.read_parquet(folder / "manifest.parquet")
    assert len(manifest) == 1797
    assert data.classes == list("0123456789")
    assert data.shape == (1, 8, 8)
    parts = {name: getattr(data, name) for name in arrays.SPLITS}
    assert sum(len(part.images) for part in parts.values()) == manifest["reason"].isna().sum()
    assert isinstance(parts["train"].images, np.memmap)
    assert parts["train"].images.min() == 0
    assert parts["train"].images.max() == 255
    for name, part in parts.items():
        rows = manifest[manifest["split"] == name].set_index("row").sort_index()
        image = part.images[5]
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        assert rows.loc[5, "sha256"] == digest
        assert rows.loc[5, "label"] == str(part.labels[5])
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    project.check("python", "-m", "aigc_tasks.clean", "digits")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


def test_mnists_checksums_are_those_of_torchvision() -> None:
    from torchvision.datasets import MNIST

    assert dict(MNIST.resources) == mnist.FILES
    assert list(mnist.MIRRORS) == MNIST.mirrors


def use_mnist(project: Project, source: str) -> None:
    project.check("aigc", "add", "mnist-mlpgan")
    project.edit(lambda p: p["datasets"]["mnist"]["acquire"].update(source=source))


def test_real_mnist_from_a_folder(project: Project, mnist_files: Path) -> None:
    use_mnist(project, str(mnist_files))
    project.check("dvc", "repro", "clean@mnist")
    report = json.loads((project.path / "data/clean/mnist/report.json").read_text())
    assert report["samples"] == 70_000
    assert report["splits"]["test"] == 10_000
    assert report["splits"]["val"] == pytest.approx(6_000, abs=5)


@pytest.fixture
def mnist_server(mnist_files: Path) -> Iterator[str]:
    """The real files behind a real HTTP server on loopback."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(mnist_files))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_real_mnist_from_a_url(project: Project, mnist_server: str, mnist_files: Path) -> None:
    use_mnist(project, mnist_server)
    project.check("dvc", "repro", "acquire@mnist")
    for name in mnist.FILES:
        assert (project.path / "data/raw/mnist" / name).read_bytes() == (mnist_files / name).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder; set `source`"),
        (lambda folder: (folder / "t10k-labels-idx1-ubyte.gz").unlink(), "no such file; set `source`"),
        (
            lambda folder: (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"x"),
            "train-labels-idx1-ubyte.gz: md5 is",
        ),
    ],
    ids=["missing folder", "missing file", "wrong checksum"],
)
def test_a_bad_mnist_folder_is_one_clear_line(project: Project, mnist_files: Path, spoil: object, message: str) -> None:
    folder = project.path / "mnist"
    shutil.copytree(mnist_files, folder)
    spoil(folder)  # type: ignore[operator]
    use_mnist(project, "mnist")
    done = project.run("python", "-m", "aigc_tasks.acquire", "mnist")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (project.path / "data/raw/mnist").exists()


def test_an_unreachable_url_is_one_clear_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "PAUSES", (0,))
    with pytest.raises(UserError, match="check the network, or set `source`"):
        mnist.download(["http://127.0.0.1:9/"], "train-images-idx3-ubyte.gz", project.path)


def test_an_idx_file_is_read_and_a_broken_one_named(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    whole = b"\x00\x00\x08\x03" + np.array(array.shape, ">i4").tobytes() + array.tobytes()
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(whole))
    assert (mnist.read_idx(path) == array).all()
    for broken in (
        gzip.compress(whole[:-1]),
        gzip.compress(whole[:3]),
        gzip.compress(b"\x01" + whole[1:]),
        b"no gzip",
        b"",
    ):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"file.gz: not (an idx|a whole gzip) file"):
            mnist.read_idx(path)
