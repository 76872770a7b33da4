"""The sources of published data sets, Parquet files and WebDataset shards, and CSVs of labels: what each one lists."""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED, Project
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aigc_tasks import acquire
from aigc_tasks.acquire import Entry, intake, labels, raw, torchvision, unreachable
from aigc_tasks.errors import UserError


def listed(tmp_path: Path, kind: str, **knobs: Any) -> list[Entry]:
    """What a source lists."""
    return list(acquire.source(kind)(kind=kind, **knobs).entries(tmp_path / "work"))


def contents(entries: list[Entry]) -> list[Any]:
    return [entry.read() for entry in entries if entry.read]


def encoded(number: int) -> bytes:
    """A small PNG, another one for each number."""
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5), number % 256, np.uint8)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The folder behind a real HTTP server on loopback: its URL, and the requests it has got."""
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form: str, *values: Any) -> None:
            requests.append(f"{self.command} {self.path}")

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreachable, "PAUSES", (0.0,))


# Published sets


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

    if not (SHARED / folder).is_dir():
        pytest.skip(f"{SHARED / folder} is missing: the real files are needed")
    entries = listed(tmp_path, "torchvision", name=name, mirror=str(SHARED / folder))
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


def packed(file: Path, members: dict[str, bytes]) -> Path:
    """A tar file, gzipped if its name says so."""
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


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
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", encoded(number))
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    entries = list(torchvision.celeba(tmp_path))
    assert [entry[:3] for entry in entries] == [
        ("000001.jpg", None, "train"),
        ("000002.jpg", None, "val"),
        ("000003.jpg", None, "test"),
    ]
    assert contents(entries) == [encoded(1), encoded(2), encoded(3)]


# Parquet


def hugging_face(file: Path, count: int, first: int = 0, rows: int = 100, **columns: Any) -> Path:
    """A Parquet file in the layout of Hugging Face's ``datasets``, classes and all."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}
    numbers = range(first, first + count)
    table = {
        "image": pa.array([{"bytes": encoded(number), "path": None} for number in numbers], pa.struct(
            [("bytes", pa.binary()), ("path", pa.string())]
        )),
        "label": pa.array([number % 3 for number in numbers], pa.int64()),
        **columns,
    }  # fmt: skip
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), file, row_group_size=rows)
    return file


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
    assert contents(entries) == [encoded(number) for number in numbers]


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(300)), st.sampled_from([7, 100, 1000]))
def test_parquet_is_read_in_any_order(tmp_path_factory: pytest.TempPathFactory, order: list[int], rows: int) -> None:
    tmp_path = tmp_path_factory.mktemp("parquet")
    entries = listed(tmp_path, "parquet", source=str(hugging_face(tmp_path / "a.parquet", 300, rows=rows)))
    for number in order[:40]:
        assert entries[number].read() == encoded(number)  # type: ignore[misc]


def test_parquets_columns_are_found_or_named(tmp_path: Path) -> None:
    pictures = pa.array([encoded(number) for number in range(4)], pa.large_binary())
    table = pa.table(
        {
            "id": [1, 2, 3, 4],
            "thumb": pa.array([b"x"] * 4),
            "img": pictures,
            "kind": pa.array(["a", "b", None, "a"]).dictionary_encode(),
            "split": ["train", "validation", "test", "other"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    assert [entry[:3] for entry in entries] == [
        (f"a.parquet/{number:07d}", None, split) for number, split in enumerate(["train", "val", "test", None])
    ]
    assert contents(entries) == pictures.to_pylist()
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"), image="thumb", label="kind", split="kind")
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
    table = pa.table({"image": [encoded(number) for number in range(3)], "label": pa.array([3, None, 10]).cast(kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    assert [(entry.label, entry.flaw) for entry in entries] == [("3", None), (None, "no label"), ("10", None)]
    pq.write_table(table.rename_columns(["image", "target"]), tmp_path / "a.parquet")
    entries = listed(tmp_path, "parquet", source=str(tmp_path / "a.parquet"))
    assert [(entry.label, entry.flaw) for entry in entries] == [(None, None)] * 3, "a measure of something"


def test_parquet_labels_that_are_no_classes_are_said(tmp_path: Path) -> None:
    columns = {"image": [encoded(number) for number in range(4)], "label": [0.5, float("nan"), float("inf"), 2.0]}
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


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_damaged_shard_is_one_entry_and_removes_nothing(tmp_path: Path, kind: str) -> None:
    ending, words = ("parquet", "not a whole Parquet file") if kind == "parquet" else ("tar", "not a whole archive")
    place = tmp_path / "set"
    place.mkdir()
    for number in range(3):
        if kind == "parquet":
            hugging_face(place / f"{number}.parquet", 4, 4 * number)
        else:
            packed(place / f"{number}.tar", {k: v for n in range(4) for k, v in sample(4 * number + n, n % 2).items()})
    source = acquire.source(kind)(kind=kind, source=str(place))
    first = (place / f"0.{ending}").read_bytes()
    (place / f"0.{ending}").write_bytes(b"x" * 3000)
    said = intake.take_in(source, tmp_path / "raw", tmp_path / "stamps")
    assert said == "9 entries: 9 added, 0 changed, 0 removed; 8 read"
    index = raw.index(tmp_path / "raw").set_index("id")
    assert str(index.loc[f"0.{ending}", "flaw"]).startswith(f"unreadable shard ({words}")
    assert index["label"].drop(f"0.{ending}").notna().all()  # the first shard that can be read says that there are any
    (place / f"0.{ending}").write_bytes(first)
    assert intake.take_in(source, tmp_path / "raw", tmp_path / "stamps").startswith(
        "12 entries: 4 added, 0 changed, 1 rem"
    )
    for spoiled in (b"x" * 3000, first[: len(first) // 2 + 700]):
        (place / f"0.{ending}").write_bytes(spoiled)
        with pytest.raises(UserError, match=rf"raw: 0.{ending}: .* would count as removed; make it readable") as error:
            intake.take_in(source, tmp_path / "raw", tmp_path / "stamps")
        assert "\n" not in str(error.value)
    for number in range(3):
        (place / f"{number}.{ending}").write_bytes(b"x" * 3000)
    with pytest.raises(UserError, match=rf"0.{ending}: {words}.*; replace it, or move it out of the source"):
        listed(tmp_path, kind, source=str(place))
    with served(place) as (url, _), pytest.raises(UserError, match=rf"^{url}/0.{ending}: {words}"):
        listed(tmp_path, kind, source=url)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_what_is_no_file_of_a_folder_of_shards_is_accounted_for(tmp_path: Path, kind: str) -> None:
    ending = {"parquet": "parquet", "webdataset": "tar"}[kind]
    place, good = tmp_path / "set", tmp_path / f"good.{ending}"
    (place / "in").mkdir(parents=True)
    if kind == "parquet":
        hugging_face(good, 4)
    else:
        packed(good, sample(0, "cat"))
    shutil.copy(good, place / f"in/a.{ending}")
    (place / f"link.{ending}").symlink_to(f"in/a.{ending}")
    (place / f"out.{ending}").symlink_to(good)
    (place / "away").symlink_to(tmp_path)
    os.mkfifo(place / f"pipe.{ending}")
    for source in (str(place), place.as_uri()):
        entries = listed(tmp_path, kind, source=source)
        away = "a link that leads out of the folder, to a folder or nowhere"
        assert {entry.id: entry.flaw for entry in entries if entry.flaw} == {
            f"out.{ending}": away,
            "away": away,
            f"pipe.{ending}": "not a regular file",
        }
        assert {entry.source for entry in entries if not entry.flaw} == {f"in/a.{ending}", f"link.{ending}"}
    with pytest.raises(UserError, match=rf"pipe.{ending}: not a regular file; replace it"):
        listed(tmp_path, kind, source=str(place / f"pipe.{ending}"))


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


def test_a_source_without_shards_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    for kind in ("parquet", "webdataset"):
        for source, message in (
            (tmp_path, "holds no file that ends in"),
            (tmp_path / "missing", "no such folder or file; set `source`"),
            (tmp_path / "{1..9}.tar", "1.tar: no such folder or file"),
            (tmp_path / "{1..999}{1..999}", "stands for more than 100,000 files"),
        ):
            with pytest.raises(UserError) as error:
                listed(tmp_path, kind, source=str(source))
            assert message in str(error.value)
            assert "\n" not in str(error.value)


# WebDataset


def sample(number: int, label: object = None, ending: str = "cls", key: str = "") -> dict[str, bytes]:
    """The members of one sample, with a label in a file of its own."""
    key = key or f"{number:04d}"
    beside = {} if label is None else {f"{key}.{ending}": str(label).encode()}
    return {**beside, f"{key}.png": encoded(number)}


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
    assert contents(entries) == [encoded(number) for number in range(62)]
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
        **{"a/b.c/x.PNG": encoded(4), "a/b.c/x.CLS": b"cat"},
    }
    file = packed(tmp_path / "a.tar", members)
    entries = listed(tmp_path, "webdataset", source=str(file))
    assert [entry.label for entry in entries] == ["7", "dog", "3", "owl", "cat"]
    assert entries[-1].id == "a.tar/a/b.c/x.PNG"
    assert {entry.label for entry in listed(tmp_path, "webdataset", source=str(file), labels=False)} == {None}
    bare = packed(tmp_path / "b.tar", {**sample(0), **sample(1), "0002.json": b'{"width": 3}', "0002.png": encoded(2)})
    entries = listed(tmp_path, "webdataset", source=str(bare))
    assert [(entry.label, entry.flaw) for entry in entries] == [(None, None)] * 3
    flaws = [entry.flaw for entry in listed(tmp_path, "webdataset", source=str(bare), labels=True)]
    assert flaws == ["no label beside it"] * 3


def test_webdatasets_missing_and_spoiled_pieces_are_accounted_for(tmp_path: Path) -> None:
    members = {
        **sample(0, "cat"),
        **sample(1),
        "0002.cls": b"dog",
        "0003.cls": b"\xff\xfe",
        "0003.png": encoded(3),
        "0004.json": b"{",
        "0004.png": encoded(4),
        "../0005.cls": b"cat",
        "../0005.png": encoded(5),
        ".hidden.png": encoded(6),
        "0007.cls": b"owl",
        "0007.seg.png": encoded(0),
        "0007.png": encoded(7),
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
    assert contents(entries) == [encoded(0), encoded(0), encoded(7)]
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 2 * 1024 + 100])
    cut = listed(tmp_path, "webdataset", source=str(tmp_path / "a.tar"))
    assert cut[-1].flaw == "archive damaged (after 2 members)"
    (tmp_path / "a.tar").write_bytes(b"x" * 10_000)
    with pytest.raises(UserError, match=r"a.tar: not a whole archive; replace it"):
        listed(tmp_path, "webdataset", source=str(tmp_path / "a.tar"))


# CSVs of labels


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
    assert contents(entries) == [encoded(0), encoded(2)]
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
        if not (SHARED / "fashion-mnist").is_dir():
            pytest.skip("the real files are needed")
        section = {"kind": kind, "name": "FashionMNIST", "mirror": str(SHARED / "fashion-mnist")}
    project.edit(lambda p: p["datasets"]["digits"].update(acquire=section))
    first = project.check("python", "-m", "aigc_tasks.acquire", "digits")
    count = "70,000" if kind == "torchvision" else "40"
    assert f"{count} added" in first
    again = project.check("python", "-m", "aigc_tasks.acquire", "digits")
    assert "0 added, 0 changed, 0 removed; 0 read" in again
