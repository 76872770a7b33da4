"""Published data sets by the names that torchvision gives them, in the files and with the checksums it has for them.

Neither torch nor pickles are needed: CIFAR comes in its binary version, of which torchvision has only the pickled one.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from aigc_tasks import acquire, layout
from aigc_tasks.acquire import Entry, downloading, places
from aigc_tasks.errors import UserError

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


class Set(NamedTuple):
    """One data set: its files, where they are to be had, and the function that lists what is in them."""

    files: dict[str, str]  # name: md5
    urls: tuple[str, ...]  # of the folders that hold the files, in the order they are tried
    read: Callable[[Path], Iterator[Entry]]  # of the folder with the files; an entry's source is one of them


class Source(acquire.Source):
    kind: Literal["torchvision"]
    name: Literal["MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100", "SVHN", "CelebA"]
    mirror: str | None = Field(
        None, description="folder or URL that holds the published files; without it they come from where they lie"
    )

    def entries(self, work: Path) -> Iterator[Entry]:
        return entries(self.name, self.mirror, "mirror", work)


def entries(name: str, place: str | None, knob: str, work: Path) -> Iterator[Entry]:
    """Every entry of the set ``name``; raises ``UserError`` if its files are not to be had, or not the published ones.

    They are read where they lie in the folder ``place``, or downloaded from the URL ``place`` or from the known ones.
    ``knob`` is what ``place`` is called in params.yaml.
    """
    files, urls, read = SETS[name]
    mend = f"set `{knob}` in params.yaml to a folder or URL that holds {name}'s files as published: {', '.join(files)}"
    if place is not None and not places.is_url(place):
        folder = layout.outside(place)
        for file, md5 in files.items():
            check(folder, file, md5, mend)
    else:
        folder = work / name
        for file, md5 in files.items():
            download([place] if place else list(urls), file, md5, folder, mend)
    for entry in read(folder):
        yield entry._replace(stamp=files[entry.source])


def check(folder: Path, file: str, md5: str, mend: str) -> None:
    """Raise ``UserError`` if the file is not in the folder or not the published one."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {mend}")
    if not (folder / file).is_file():
        raise UserError(f"{folder / file}: no such file; {mend}")
    if wrong := downloading.mismatch(folder / file, {"md5": md5}):
        raise UserError(f"{folder / file}: {wrong}: damaged, or another file; {mend}")


def download(mirrors: list[str], file: str, md5: str, folder: Path, mend: str) -> None:
    """Bring the file into the folder from the first of ``mirrors`` that gives it; raises ``UserError`` if none does."""
    trouble = f"{file}: can be had by hand alone"
    for place in mirrors:
        try:
            downloading.download(f"{place.rstrip('/')}/{file}", folder, md5=md5)
            return
        except UserError as error:
            trouble = str(error).partition("; ")[0]
    raise UserError(f"{trouble}; {mend}")


def broken(file: Path) -> UserError:
    return UserError(f"{file}: not in the format it was published in; replace it by the original")


def idx(classes: tuple[str, ...], folder: Path) -> Iterator[Entry]:
    """The sets in the format of MNIST (LeCun et al. 1998): grey 28×28."""
    for prefix, split in (("train", "train"), ("t10k", "test")):
        source = f"{prefix}-images-idx3-ubyte.gz"
        images, labels = read_idx(folder / source), read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(classes):
            raise broken(folder / source)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Entry(f"{prefix}/{number:05d}", classes[label], split, None, image[None].copy, source)


def read_idx(file: Path) -> np.ndarray:
    """The array in a gzipped idx file of unsigned bytes; raises ``UserError`` if it is not one."""
    try:
        content = gzip.decompress(file.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise broken(file) from None
    dimensions = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, ">i4", dimensions, offset=4) if len(content) >= 4 + 4 * dimensions else np.zeros(0)
    if content[:3] != b"\x00\x00\x08" or len(content) != 4 + 4 * dimensions + int(np.prod(shape.astype(np.int64))):
        raise broken(file)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def cifar(source: str, names: str, coarse: int, folder: Path) -> Iterator[Entry]:
    """CIFAR-10 and CIFAR-100 (Krizhevsky 2009), binary version: colour 32×32; ``coarse`` labels come before the label.

    Each record is the labels, one byte each, and 3×32×32 bytes of pixels. ``names`` is the file with the classes.
    """
    record = coarse + 1 + 3 * 32 * 32
    try:
        with tarfile.open(folder / source, "r:gz") as archive:
            members = {PurePosixPath(member.name).name: member for member in archive.getmembers() if member.isreg()}
            classes = unpacked(archive, members[names]).decode().split()
            for file in sorted(name for name in members if name.endswith(".bin")):
                stem = file.removesuffix(".bin")
                records = np.frombuffer(unpacked(archive, members[file]), np.uint8).reshape(-1, record)
                for number, row in enumerate(records):
                    image = row[coarse + 1 :].reshape(3, 32, 32)
                    split = "test" if stem.startswith("test") else "train"
                    yield Entry(f"{stem}/{number:05d}", classes[row[coarse]], split, None, image.copy, source)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, KeyError, IndexError, ValueError):
        raise broken(folder / source) from None


def unpacked(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def svhn(folder: Path) -> Iterator[Entry]:
    """SVHN (Netzer et al. 2011), cropped digits: colour 32×32 in MATLAB's files, where the class of a zero is 10."""
    from scipy.io import loadmat

    for split in ("train", "test"):
        source = f"{split}_32x32.mat"
        try:
            content = loadmat(folder / source, variable_names=["X", "y"])
            images, labels = content["X"].transpose(3, 2, 0, 1), content["y"].ravel()
        except Exception:  # a damaged file makes it raise anything
            raise broken(folder / source) from None
        if images.dtype != np.uint8 or images.shape[1:] != (3, 32, 32) or labels.shape != images.shape[:1]:
            raise broken(folder / source)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Entry(f"{split}/{number:05d}", DIGITS[label % 10], split, None, image.copy, source)


def celeba(folder: Path) -> Iterator[Entry]:
    """CelebA (Liu et al. 2015), aligned and cropped: JPEG 178×218, without labels, divided by the published list."""
    source, partition = "img_align_celeba.zip", "list_eval_partition.txt"
    try:
        splits = dict(line.split() for line in (folder / partition).read_text().splitlines())
    except ValueError:
        raise broken(folder / partition) from None
    try:
        archive = zipfile.ZipFile(folder / source)  # closed when the last entry that may still be read is forgotten
    except zipfile.BadZipFile:
        raise broken(folder / source) from None
    for path in sorted(path for path in archive.namelist() if path.endswith(".jpg")):
        name = PurePosixPath(path).name
        split = {"0": "train", "1": "val", "2": "test"}.get(splits.get(name, ""))
        yield Entry(name, None, split, None, partial(archive.read, path), source)


def four(*md5s: str) -> dict[str, str]:
    """The files of a set in MNIST's format."""
    kinds = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
    return dict(zip((f"{prefix}-{kind}" for prefix in ("train", "t10k") for kind in kinds), md5s, strict=True))


SETS = {
    "MNIST": Set(
        four(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        partial(idx, DIGITS),
    ),
    "FashionMNIST": Set(
        four(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        partial(idx, FASHION),
    ),
    "KMNIST": Set(
        four(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        partial(idx, KANA),
    ),
    "CIFAR10": Set(
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        ("https://www.cs.toronto.edu/~kriz/",),
        partial(cifar, "cifar-10-binary.tar.gz", "batches.meta.txt", 0),
    ),
    "CIFAR100": Set(
        {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        ("https://www.cs.toronto.edu/~kriz/",),
        partial(cifar, "cifar-100-binary.tar.gz", "fine_label_names.txt", 1),
    ),
    "SVHN": Set(
        {
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
        ("http://ufldl.stanford.edu/housenumbers/",),
        svhn,
    ),
    "CelebA": Set(  # its home, a shared drive, refuses programs
        {
            "img_align_celeba.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
            "list_eval_partition.txt": "d32c9cbf5e040fd4025c592c306e6668",
        },
        (),
        celeba,
    ),
}
