"""A source that changes while it is read: what is learned from is what the source says, or nothing is taken in."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aigc_tasks import acquire
from aigc_tasks.acquire import Entry, raw
from aigc_tasks.acquire.intake import take_in
from aigc_tasks.errors import UserError

COUNT, SWAPPED = 400, 100  # pictures; how many are listed before the file is another one


def level(label: str) -> bytes:
    """A picture that tells its label: of one size whatever that is, so that one may be taken for another."""
    content = io.BytesIO()
    Image.new("L", (16, 16), int(label)).save(content, "PPM")
    return content.getvalue()


def write_tar(path: Path, labels: Iterable[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for number, label in enumerate(labels):
            member = tarfile.TarInfo(f"{label}/{number}.pgm")
            member.size = len(level(label))
            archive.addfile(member, io.BytesIO(level(label)))


def write_shard(path: Path, labels: Iterable[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for number, label in enumerate(labels):
            for ending, content in (("pgm", level(label)), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{number:06d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, labels: Iterable[str]) -> None:
    labels = list(labels)
    table = pa.table({"image": list(map(level, labels)), "label": labels})
    pq.write_table(table, path, row_group_size=50, compression="none", use_dictionary=False)


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize(
    ("kind", "name", "write"),
    [("folder", "a.tar", write_tar), ("webdataset", "a.tar", write_shard), ("parquet", "a.parquet", write_parquet)],
)
def test_a_file_that_is_replaced_while_it_is_read_mixes_no_labels(
    kind: str,
    name: str,
    write: Callable[[Path, Iterable[str]], None],
    is_removed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place, new = tmp_path / name, tmp_path / "new"
    labels = [f"{number % 200 + 10:03d}" for number in range(COUNT)]
    write(place, labels)
    write(new, reversed(labels))
    source = acquire.source(kind).model_validate({"kind": kind, "source": str(place), "labels": None})
    listed = type(source).entries

    def replaced(source: Any, work: Path) -> Iterator[Entry]:
        for number, entry in enumerate(listed(source, work)):
            if number == SWAPPED:
                place.unlink() if is_removed else new.replace(place)
            yield entry

    with monkeypatch.context() as patch:
        patch.setattr(type(source), "entries", replaced)
        with pytest.raises(UserError, match=rf"{name}: changed while it was read; run the same command again"):
            take_in(source, tmp_path / "raw/pics", tmp_path / "work")
    assert not (tmp_path / "raw").exists()
    if is_removed:
        new.replace(place)
    take_in(source, tmp_path / "raw/pics", tmp_path / "work")
    rows = [row for chunk in raw.chunks(tmp_path / "raw/pics") for row in raw.read(tmp_path / "raw/pics", chunk)]
    assert len(rows) == COUNT
    assert all(row.content == level(str(row.label)) for row in rows)
