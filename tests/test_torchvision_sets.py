"""Published data sets: each is read as torchvision, or scikit-learn, reads it, and wrong files are named."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import packed
from conftest import SHARED, real_data
from listing import contents, listed
from pictures import png
from web_server import served

from aigc_tasks.acquire import torchvision
from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_digits_are_listed_with_their_labels(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    entries = listed(tmp_path, "digits")
    assert [entry.id for entry in entries] == [f"{number:04d}" for number in range(1797)]
    assert [int(entry.label or "") for entry in entries] == load_digits().target.tolist()
    pixels = np.stack(contents(entries))
    assert pixels.dtype == np.uint8
    assert (np.round(pixels[:, 0] / (255 / 16)) == load_digits().images).all()


@pytest.mark.slow
def test_files_addresses_and_checksums_are_those_of_torchvision() -> None:
    from torchvision import datasets

    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        published = getattr(datasets, name)
        assert torchvision.SETS[name].files == dict(published.resources)
        assert list(torchvision.SETS[name].urls) == published.mirrors
    assert list(torchvision.FASHION) == datasets.FashionMNIST.classes
    assert list(torchvision.KANA) == datasets.KMNIST.classes
    svhn = {split: datasets.SVHN.split_list[split] for split in ("train", "test")}
    assert torchvision.SETS["SVHN"].files == {file: md5 for _, file, md5 in svhn.values()}
    assert {f"{torchvision.SETS['SVHN'].urls[0]}{file}" for _, file, _ in svhn.values()} == {
        url for url, _, _ in svhn.values()
    }
    celeba = {file: md5 for _, md5, file in datasets.CelebA.file_list}
    assert torchvision.SETS["CelebA"].files.items() <= celeba.items()
    for name in ("CIFAR10", "CIFAR100"):  # the same place, the same name but for the format
        published = getattr(datasets, name)
        (file,) = torchvision.SETS[name].files
        assert f"{torchvision.SETS[name].urls[0]}{file}" == published.url.replace("-python", "-binary")
    assert set(torchvision.Source.model_fields["name"].annotation.__args__) == set(torchvision.SETS)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "folder"), [("MNIST", "mnist"), ("FashionMNIST", "fashion-mnist")])
def test_the_real_files_are_read_as_torchvision_reads_them(tmp_path: Path, name: str, folder: str) -> None:
    from torchvision import datasets

    entries = listed(tmp_path, "torchvision", name=name, mirror=str(real_data(folder)))
    assert [len([entry for entry in entries if entry.split == split]) for split in ("train", "test")] == [
        60_000,
        10_000,
    ]
    assert len({entry.id for entry in entries}) == 70_000
    raw_folder = tmp_path / name / "raw"
    raw_folder.mkdir(parents=True)
    for file in (SHARED / folder).glob("t10k*.gz"):
        (raw_folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        (raw_folder / file.stem.replace("t10k", "train")).write_bytes(b"")
    theirs = getattr(datasets, name)(tmp_path, train=False)
    ours = [entry for entry in entries if entry.split == "test"]
    classes = theirs.classes if name == "FashionMNIST" else list("0123456789")
    assert [entry.label for entry in ours] == [classes[label] for label in theirs.targets]
    assert (np.stack(contents(ours))[:, 0] == theirs.data.numpy()).all()


@pytest.mark.slow
def test_mnist_is_torchvisions_and_comes_from_a_url_too(tmp_path: Path, mnist_files: Path) -> None:
    by_name = listed(tmp_path, "torchvision", name="MNIST", mirror=str(mnist_files))
    with served(mnist_files) as (url, requests):
        by_url = listed(tmp_path, "mnist", source=url)
        fetched = len(requests)
        again = listed(tmp_path, "mnist", source=url)
        assert len(requests) == fetched == 4  # whole and here already
    told = [entry[:4] for entry in by_name]
    assert [entry[:4] for entry in by_url] == [entry[:4] for entry in again] == told
    assert told[0][:3] == ("train/00000", "5", "train")
    assert told[-1][0] == "t10k/09999"
    assert all((a.read() == b.read()).all() for a, b in zip(by_name[::500], by_url[::500], strict=True))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "t10k-labels-idx1-ubyte.gz").unlink(), "t10k-labels-idx1-ubyte.gz: no such file"),
        (lambda folder: (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"x"), "idx1-ubyte.gz: its md5 is 9dd4"),
    ],
    ids=["missing folder", "missing file", "wrong checksum"],
)
@pytest.mark.parametrize(("kind", "knob"), [("mnist", "source"), ("torchvision", "mirror")])
def test_a_bad_folder_is_one_clear_line(
    tmp_path: Path, mnist_files: Path, kind: str, knob: str, spoil: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(mnist_files, tmp_path / "files", copy_function=shutil.copy)
    (tmp_path / "files").chmod(0o755)
    for file in (tmp_path / "files").iterdir():
        file.chmod(0o644)
    spoil(tmp_path / "files")
    knobs = {"name": "MNIST"} if kind == "torchvision" else {}
    with pytest.raises(UserError) as error:
        listed(tmp_path, kind, **{knob: str(tmp_path / "files")}, **knobs)
    assert message in str(error.value)
    assert f"; set `{knob}` in params.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_url_is_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not these")
    with served(folder) as (url, _), pytest.raises(UserError, match=r"md5 is .*; set `source`"):
        listed(tmp_path, "mnist", source=url)
    with served(folder) as (url, _), pytest.raises(UserError, match=r"404.*; set `mirror`"):
        listed(tmp_path, "torchvision", name="CIFAR10", mirror=url)
    with pytest.raises(UserError, match=r"127.0.0.1:9/.*; set `source`"):
        listed(tmp_path, "mnist", source="http://127.0.0.1:9/")
    with pytest.raises(UserError, match=r"by hand alone; set `mirror`.*img_align_celeba.zip, list_eval_partition.txt"):
        listed(tmp_path, "torchvision", name="CelebA")


def test_an_idx_file_is_read_and_a_broken_one_named(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    whole = b"\x00\x00\x08\x03" + np.array(array.shape, ">i4").tobytes() + array.tobytes()
    file = tmp_path / "file.gz"
    file.write_bytes(gzip.compress(whole))
    assert (torchvision.read_idx(file) == array).all()
    spoiled = (whole[:-1], whole[:3], b"\x01" + whole[1:], b"")
    for broken in (*map(gzip.compress, spoiled), gzip.compress(whole)[:-9], b"no gzip", b""):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=r"file.gz: not in the format"):
            torchvision.read_idx(file)


@pytest.mark.parametrize("coarse", [0, 1])
def test_cifars_binary_format_is_read(tmp_path: Path, coarse: int) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (3, 4, 3, 32, 32), dtype=np.uint8)
    found = generator.integers(0, 10, (3, 4))
    batches = [
        b"".join(b"\x63" * coarse + bytes([label]) + image.tobytes() for label, image in zip(*batch, strict=True))
        for batch in zip(found, pixels, strict=True)
    ]
    classes = [f"class{number}" for number in range(10)]
    files = {"x/data_batch_1.bin": batches[0], "x/data_batch_2.bin": batches[1], "x/test_batch.bin": batches[2]}
    meta = "\n".join(classes).encode() + b"\n\n"
    packed(tmp_path / "a.tar.gz", {**files, "x/names.txt": meta, "x/readme.html": b"?"})
    entries = list(torchvision.cifar("a.tar.gz", "names.txt", coarse, tmp_path))
    assert [entry.id for entry in entries][3:5] == ["data_batch_1/00003", "data_batch_2/00000"]
    assert [entry.split for entry in entries] == ["train"] * 8 + ["test"] * 4
    assert [entry.label for entry in entries] == [classes[label] for label in found.ravel()]
    assert (np.stack(contents(entries)) == pixels.reshape(-1, 3, 32, 32)).all()
    whole = (tmp_path / "a.tar.gz").read_bytes()
    for spoiled in (whole[: len(whole) // 2], b"", b"x" * 1000):
        (tmp_path / "a.tar.gz").write_bytes(spoiled)
        with pytest.raises(UserError, match=r"a.tar.gz: not in the format"):
            list(torchvision.cifar("a.tar.gz", "names.txt", coarse, tmp_path))
    for members in ({**files, "x/names.txt": b"one two"}, files, {"x/names.txt": meta, "x/test.bin": batches[0][:-1]}):
        packed(tmp_path / "a.tar.gz", members)
        with pytest.raises(UserError, match=r"a.tar.gz: not in the format"):
            list(torchvision.cifar("a.tar.gz", "names.txt", coarse, tmp_path))


def test_svhns_format_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision import datasets

    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 11)):
        images = generator.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        found = (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": found}, do_compression=True)
    entries = list(torchvision.svhn(tmp_path))
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)  # of files that are not the real ones
    theirs = datasets.SVHN(tmp_path, split="test")
    ours = [entry for entry in entries if entry.split == "test"]
    assert len(entries) == 16
    assert [entry.label for entry in ours] == [str(label) for label in theirs.labels]
    assert (np.stack(contents(ours)) == theirs.data).all()
    (tmp_path / "test_32x32.mat").write_bytes((tmp_path / "test_32x32.mat").read_bytes()[:-50])
    with pytest.raises(UserError, match=r"test_32x32.mat: not in the format"):
        list(torchvision.svhn(tmp_path))


def test_celebas_files_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "w") as archive:
        for number in (3, 1, 2):
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", png(number))
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    entries = list(torchvision.celeba(tmp_path))
    assert [entry[:3] for entry in entries] == [
        ("000001.jpg", None, "train"),
        ("000002.jpg", None, "val"),
        ("000003.jpg", None, "test"),
    ]
    assert contents(entries) == [png(1), png(2), png(3)]
