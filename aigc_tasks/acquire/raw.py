"""The format of ``data/raw/NAME``: Parquet files that are only ever added to, and ``source.json`` that counts them.

Files are named ``VERSION-PART.parquet``, with one row per entry. A file never changes once it is written: a later
version's row supersedes the row of the same id in earlier versions, and one with ``gone`` says that it was removed.
One of which only the label or split is new has no content: it is that of an earlier row of the same id and hash.
To DVC a new version is a few new files, and an old version is the same files without them.
"""

from __future__ import annotations

import hashlib
import json
import os
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aigc_tasks.errors import UserError

if TYPE_CHECKING:
    import pandas as pd  # takes a while, which the processes that only read pictures need not wait

SOURCE = "source.json"
PARTS = "[0-9]*-*.parquet"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("sha256", pa.string(), nullable=False),  # of the content; of pixels: of repr(shape) and bytes
        pa.field("size", pa.int64(), nullable=False),  # bytes
        pa.field("shape", pa.list_(pa.int32())),  # of pixels alone
        pa.field("content", pa.large_binary()),
        pa.field("flaw", pa.string()),
        pa.field("gone", pa.bool_(), nullable=False),
    ]
)
INDEX = ["id", "source", "label", "split", "sha256", "size", "flaw"]
FACTS = ["source", "label", "split", "sha256", "flaw"]  # that make an entry another one
GROUP_ROWS, GROUP_BYTES = 512, 16 << 20  # what one reading brings into memory
PART_BYTES = 256 << 20  # what one killed acquisition loses at most


class Chunk(NamedTuple):
    """One row group: what is read at once."""

    file: str
    group: int
    rows: int
    bytes: int


class Row(NamedTuple):
    """One entry as it was brought; there is no content if it has a flaw or is gone, and no hash either."""

    id: str
    source: str
    label: str | None
    split: str | None
    sha256: str
    content: bytes | np.ndarray | None  # an encoded file, or pixels uint8 C×H×W
    flaw: str | None
    gone: bool


def versions(folder: Path) -> list[dict[str, Any]]:
    """The versions, oldest first: version, count, added, changed, removed, digest. Raises ``UserError``."""
    return described(folder)["versions"]


def chunks(folder: Path) -> list[Chunk]:
    """All row groups, in the order they were written; raises ``UserError`` if this is not a raw data set."""
    return [
        Chunk(path.name, number, group.num_rows, group.total_byte_size)
        for path in parts(folder)
        for metadata in [opened(path).metadata]
        for number, group in enumerate(map(metadata.row_group, range(metadata.num_row_groups)))
    ]


def read(folder: Path, chunk: Chunk) -> list[Row]:
    """The rows of one row group, superseded ones among them; raises ``UserError`` if the file is damaged."""
    path = folder / chunk.file
    try:
        table = opened(path).read_row_group(chunk.group)
    except (pa.ArrowException, OSError):
        raise damaged(path) from None
    rows = [
        Row(
            row["id"],
            row["source"],
            row["label"],
            row["split"],
            row["sha256"],
            content_of(row),
            row["flaw"],
            row["gone"],
        )
        for batch in table.to_batches(max_chunksize=32)  # so that the contents are not all in memory twice
        for row in batch.to_pylist()
    ]
    missing = {(row.id, row.sha256) for row in rows if row.content is None and row.flaw is None and not row.gone}
    held = earlier(folder, chunk, missing) if missing else {}
    return [row._replace(content=held[row.id, row.sha256]) if (row.id, row.sha256) in held else row for row in rows]


def content_of(row: dict[str, Any]) -> bytes | np.ndarray | None:
    return np.frombuffer(row["content"], np.uint8).reshape(row["shape"]) if row["shape"] else row["content"]


def earlier(folder: Path, chunk: Chunk, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """The contents, by id and hash, that versions before the chunk's hold."""
    found: dict[tuple[str, str], Any] = {}
    ids = pa.array([id for id, _ in wanted])
    least, most = min(wanted)[0], max(wanted)[0]
    for path in parts(folder):
        if version_of(path) == version_of(Path(chunk.file)) or len(found) == len(wanted):
            break
        file = opened(path)
        for group in range(file.num_row_groups):
            bounds = file.metadata.row_group(group).column(0).statistics  # of ids; it may be missing
            if bounds and bounds.has_min_max and (bounds.max < least or bounds.min > most):
                continue
            if not pc.any(pc.is_in(file.read_row_group(group, ["id"])["id"], value_set=ids)).as_py():
                continue
            table = file.read_row_group(group, ["id", "sha256", "content", "shape"])
            table = table.filter(pc.and_(pc.is_in(table["id"], value_set=ids), pc.is_valid(table["content"])))
            found |= {
                key: content_of(row) for row in table.to_pylist() if (key := (row["id"], row["sha256"])) in wanted
            }
    if len(found) < len(wanted):
        raise damaged(folder / chunk.file)
    return found


def superseded(folder: Path) -> dict[str, frozenset[str]]:
    """For each file the ids in it that a later version replaces or removes."""
    found: dict[str, frozenset[str]] = {}
    later: set[str] = set()
    for version, files in groupby(reversed(parts(folder)), version_of):
        own: set[str] = set()
        for path in files:
            ids = opened(path).read(["id"])["id"].to_pylist() if later or version > 1 else []
            found[path.name] = frozenset(later.intersection(ids))
            own.update(ids if version > 1 else [])
        later |= own
    return found


def index(folder: Path, version: int | None = None) -> pd.DataFrame:
    """What was there at that version (without it: the last one), by id, without content.

    Columns: id, source, label, split, sha256, size in bytes, flaw. Raises ``UserError``.
    """
    return live(folder, version).to_pandas()


def live(folder: Path, version: int | None = None, among: pa.ChunkedArray | None = None) -> pa.Table:
    """``index`` as an Arrow table; ``among`` some ids alone."""
    known = [described["version"] for described in versions(folder)]
    if version is not None and version not in known:
        raise UserError(f"{folder}: there is no version {version}; known are: {', '.join(map(str, known))}")
    files = [path for path in parts(folder) if version is None or version_of(path) <= version]
    tables = (opened(path).read([*INDEX, "gone"]) for path in files)
    table = pa.concat_tables(
        [each if among is None else each.filter(pc.is_in(each["id"], value_set=among)) for each in tables]
    )
    last = ~table["id"].to_pandas().duplicated(keep="last").to_numpy()
    return table.filter(last & ~table["gone"].to_numpy()).select(INDEX).sort_by("id")


def changes(before: pa.Table, after: pa.Table) -> dict[str, list[str]]:
    """Ids, in order, of what was added, changed and removed between two versions as ``live`` gives them."""
    stayed, stays = (pc.is_in(one["id"], value_set=other["id"]) for one, other in ((before, after), (after, before)))
    was, now = before.filter(stayed), after.filter(stays)  # the same ids, in one order
    differs = pa.array(np.zeros(len(now), bool))
    for fact in FACTS:
        differs = pc.or_(differs, pc.not_equal(pc.fill_null(was[fact], ""), pc.fill_null(now[fact], "")))
    return {
        "added": after["id"].filter(pc.invert(stays)).to_pylist(),
        "changed": now["id"].filter(differs).to_pylist(),
        "removed": before["id"].filter(pc.invert(stayed)).to_pylist(),
    }


def last_changes(folder: Path) -> dict[str, list[str]] | None:
    """``changes`` from the version before the last one; None if there is none. Memory holds what changed."""
    numbers = [described["version"] for described in versions(folder)][-2:]
    if len(numbers) < 2:
        return None
    own = [opened(path).read(["id"]) for path in parts(folder) if version_of(path) == numbers[1]]
    before, after = (live(folder, number, pa.concat_tables(own)["id"]) for number in numbers)
    return changes(before, after)


def parts(folder: Path) -> list[Path]:
    """The files, oldest first. What a killed acquisition left beyond the last version does not count."""
    last = versions(folder)[-1]["version"]
    found = [path for path in folder.glob(PARTS) if version_of(path) <= last]
    if not found:
        raise foreign(folder)
    return sorted(found, key=lambda path: [int(number) for number in path.stem.split("-")])


def version_of(path: Path) -> int:
    return int(path.name.split("-")[0])


def part_name(version: int, part: int) -> str:
    return f"{version:04d}-{part:06d}.parquet"


def described(folder: Path) -> dict[str, Any]:
    """The content of ``source.json``: the source's knobs, and the versions. Raises ``UserError``."""
    try:
        content = json.loads((folder / SOURCE).read_bytes())
        assert content["versions"][-1]["version"] > 0
        return content
    except (OSError, ValueError, KeyError, IndexError, TypeError, AssertionError):
        raise foreign(folder) from None


def foreign(folder: Path) -> UserError:
    stage = f"acquire@{folder.name}"  # in a clone, running it would begin its versions again at 1
    return UserError(f"{folder}: not a raw data set; bring it: `dvc repro {stage}`, or in a clone `dvc pull {stage}`")


def opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError):
        raise damaged(path) from None


def damaged(path: Path) -> UserError:
    return UserError(f"{path}: damaged; remove {path.parent} and run `dvc repro -f acquire@{path.parent.name}`")


def size_of(content: bytes | np.ndarray | None) -> int:
    """In bytes."""
    return content.nbytes if isinstance(content, np.ndarray) else len(content or b"")


def content_hash(content: bytes | np.ndarray) -> str:
    """Hex SHA-256 of an encoded file, or of pixels: of their shape and bytes."""
    if isinstance(content, np.ndarray):
        content = repr(content.shape).encode() + content.tobytes()
    return hashlib.sha256(content).hexdigest()


def row_hash(id: str, label: str | None, split: str | None, sha256: str, flaw: str | None) -> int:
    """What a row adds to its version's digest, which is the sum modulo 2**256.

    A sum is brought up to date without the rows that stay (Bellare & Micciancio 1997, AdHash).
    """
    state = json.dumps([id, label, split, sha256, flaw]).encode()
    return int.from_bytes(hashlib.sha256(state).digest(), "big")


def stored(row: Row) -> dict[str, Any]:
    """The row as ``SCHEMA`` has it."""
    content, shape = row.content, None
    if isinstance(row.content, np.ndarray):
        content, shape = row.content.tobytes(), row.content.shape
    return row._asdict() | {"content": content, "shape": shape, "size": size_of(content)}


class Part:
    """One Parquet file in the making. It takes its name when it is whole; without a row there is none."""

    def __init__(self, path: Path, schema: pa.Schema = SCHEMA) -> None:
        self.path, self.schema = path, schema
        self.unfinished = path.with_name(f".{path.name}.unfinished")
        self.rows: list[dict[str, Any]] = []
        self.pending = self.written = 0  # bytes of content
        self.file: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.pending += row.get("size", 0)  # also of what is not repeated here: whoever reads the row has it
        if len(self.rows) == GROUP_ROWS or self.pending >= GROUP_BYTES:
            self.flush()

    @property
    def full(self) -> bool:
        """A function of the rows alone, so that a resumed acquisition divides them as an undisturbed one does."""
        return self.written >= PART_BYTES

    def flush(self) -> None:
        """Write the rows so far as one row group."""
        if self.file is None:
            few = [name for name in ("source", "label", "split", "flaw") if name in self.schema.names]
            options = {"use_dictionary": few, "write_statistics": ["id"]}  # of contents they would hold six copies
            self.file = pq.ParquetWriter(self.unfinished, self.schema, compression="zstd", **options)
        self.file.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.written += self.pending
        self.rows, self.pending = [], 0

    def close(self) -> None:
        if self.rows:
            self.flush()
        if self.file is None:
            return
        self.file.close()
        with open(self.unfinished, "rb+") as file:
            os.fsync(file.fileno())
        self.unfinished.replace(self.path)
