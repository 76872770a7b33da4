"""Data sets from their sources to arrays: the digits, one of every kind of source, and real ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from archives import packed
from conftest import Project, real_data
from shards import hugging_face, sample

from aigc_tasks.acquire import folder, raw
from aigc_tasks.acquire.intake import take_in
from aigc_tasks.clean import arrays


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "webdataset", "torchvision"])
def test_the_stage_brings_it(project: Project, kind: str) -> None:
    """Through the command line: twice, and the second time nothing is read."""
    folder = project.path / "files"
    folder.mkdir()
    section: dict[str, Any] = {"kind": kind, "source": "files"}
    if kind == "parquet":
        hugging_face(folder / "train.parquet", 40)
    elif kind == "webdataset":
        packed(folder / "train.tar", {k: v for number in range(40) for k, v in sample(number, number % 2).items()})
    else:
        section = {"kind": kind, "name": "FashionMNIST", "mirror": str(real_data("fashion-mnist"))}
    project.edit(lambda p: p["datasets"]["digits"].update(acquire=section))
    first = project.check("python", "-m", "aigc_tasks.acquire", "digits")
    count = "70,000" if kind == "torchvision" else "40"
    assert f"{count} added" in first
    again = project.check("python", "-m", "aigc_tasks.acquire", "digits")
    assert "0 added, 0 changed, 0 removed; 0 read" in again


def use_mnist(project: Project, source: str) -> None:
    project.check("aigc", "add", "mnist-mlpgan")
    project.edit(lambda p: p["datasets"]["mnist"]["acquire"].update(source=source))


@pytest.mark.slow
def test_real_mnist_from_a_folder(project: Project, mnist_files: Path) -> None:
    use_mnist(project, str(mnist_files))
    project.check("dvc", "repro", "clean@mnist")
    report = json.loads((project.path / "data/clean/mnist/report.json").read_text())
    assert report["samples"] == 70_000
    assert report["splits"]["test"] == 10_000
    assert report["splits"]["val"] == pytest.approx(6_000, abs=300)


def test_real_faces_of_forty_people(cleaned: Any) -> None:
    data, manifest = cleaned(real_data("orl-faces"), size=32, colour="grey")
    assert data.shape == (1, 32, 32)
    assert len(data.classes) == 40
    reasons = manifest["reason"].dropna().str.replace(r" of .*", "", regex=True).value_counts()
    assert reasons["not a picture"] == 2
    assert len(manifest) == 402
    assert manifest.loc["orl-faces/orl-faces/s7/3.pgm", "label"] == "s7"


@pytest.mark.slow
def test_real_cifar_in_two_archives(tmp_path: Path) -> None:
    source = folder.Source(kind="folder", source=str(real_data("cifar10-jpg")))
    assert take_in(source, tmp_path / "raw/cifar", tmp_path / "work").startswith("60,000 entries: 60,000 added")
    table = raw.index(tmp_path / "raw/cifar")
    assert set(map(tuple, table[["source", "split"]].drop_duplicates().to_numpy())) == {
        ("test.zip", "test"),
        ("train.zip", "train"),
    }
    assert table["label"].value_counts().to_dict() == dict.fromkeys(table["label"].unique(), 6000)
    assert table["flaw"].isna().all()
    assert table.loc[0, "id"] == "test/test/airplane/0000.jpg"
