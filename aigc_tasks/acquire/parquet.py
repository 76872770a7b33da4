"""Parquet files with encoded pictures in a column, as Hugging Face's ``datasets`` writes them or as plain bytes."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from aigc_tasks import acquire
from aigc_tasks.acquire import Entry, archives, shards
from aigc_tasks.acquire import labels as csv
from aigc_tasks.errors import UserError

IMAGE = ("image", "img", "picture", "bytes", "content", "jpg", "png")
KEPT = 256  # pictures, and bytes of the largest one, that are held for those who ask a little late
LONGEST = 10_000  # letters of a label
SPLIT_MEND = "or set `split` in params.yaml to another column, or to false"


class Source(acquire.Source):
    kind: Literal["parquet"]
    source: str = Field(description="a .parquet file, a folder of them, or a URL of either; {000..012} stands for many")
    image: str | None = Field(None, description="column of the pictures; without it, it is found by its type and name")
    label: Literal[False] | str | None = Field(
        None, description="column of the classes; false: none; without it, it is found if there is one"
    )
    split: Literal[False] | str | None = Field(
        None, description="column of the splits; without it, `split` or what file names tell; false: these alone"
    )
    labels: str | None = Field(None, description="path or URL of a CSV with a class for each id, instead of a column")
    options: dict[str, Any] = Field(
        default_factory=dict, exclude=True, description="for fsspec, where `source` is a URL: endpoint_url, anon, …"
    )

    def entries(self, work: Path) -> Iterator[Entry]:
        found = partial(self.listed, work)
        return found() if self.labels is None else csv.applied(found, self.labels, self.options)

    def listed(self, work: Path) -> Iterator[Entry]:
        first: tuple[str, str | None] | None = None  # the name of the first file, and its column of classes

        def read(shard: shards.Shard) -> Iterator[Entry]:
            nonlocal first
            try:
                with pq.ParquetFile(shard.file) as file:
                    columns = self.columns(file.schema_arrow, shard.name)
                    own = shard.name, columns.label
                    first = first or own
                    agree(first, own)
                    yield from rows(file, shard, columns, self.limit)
            except PermissionError as error:
                raise shards.Broken(str(error.strerror).lower()) from None
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                reason = str(error).partition("\n")[0][:200]
                raise shards.Broken(f"not a whole Parquet file: {reason}") from None

        return shards.entries(self.source, (".parquet",), self.options, work, read)

    def columns(self, schema: pa.Schema, name: str) -> Columns:
        """The columns to read; raises ``UserError`` if there are none, or not of a type that can be used."""
        features = described(schema)
        if twice := [column for column, count in Counter(schema.names).items() if count > 1]:
            raise UserError(f"{name}: has several columns {twice[0]!r}; write it again with one of each name")
        for knob in ("image", "label", "split"):
            column = getattr(self, knob)
            if isinstance(column, str) and column not in schema.names:
                has = ", ".join(schema.names)[:200]
                raise UserError(f"{name}: has no column {column!r}; set `{knob}` in params.yaml to one of: {has}")
        image = self.image or column_of_pictures(schema, features)
        if image is None or not holds_bytes(schema.field(image).type):
            held = ", ".join(f"{field.name} ({field.type})" for field in schema)[:300]
            raise UserError(
                f"{name}: no column of encoded pictures{f' is {image!r}' if image else ''}; set `image` in params.yaml "
                f"to one of bytes, or of structs with `bytes`; it has {held}"
            )
        found = column_of_labels(schema, features) if self.label is None else self.label
        label = None if self.labels else found or None
        if label is not None and not is_class(schema.field(label).type):
            raise UserError(
                f"{name}: column {label!r} holds {schema.field(label).type}, no classes; "
                "set `label` in params.yaml to one of whole numbers or text, or to false"
            )
        is_split = "split" in schema.names and is_class(kind := schema.field("split").type) and not has_point(kind)
        split = ("split" if is_split else None) if self.split is None else self.split or None
        classes = features.get(label, {}).get("names") if label else None
        if classes is not None and not are_names(classes):
            raise UserError(
                f"{name}: the names noted for column {label!r} are no list of texts; "
                "correct the file's metadata, or set `label` in params.yaml to another column"
            )
        return Columns(image, label, split, classes)


class Columns(NamedTuple):
    """What is read of a file."""

    image: str
    label: str | None
    split: str | None
    classes: list[str] | None  # of Hugging Face's ClassLabel: the names of label 0, 1, …


def agree(*files: tuple[str, str | None]) -> None:
    """Raise ``UserError`` if only one of two files has a column of classes: without a class, it would get another's."""
    (bare, label), (other, found) = sorted(files, key=lambda file: file[1] is not None)
    if label is None and found is not None:
        raise UserError(
            f"{bare}: no column of classes was found in it, and in {other} {found!r}; "
            "set `label` in params.yaml to the column, or to false, or leave the file out of `source`"
        )


def described(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face's ``datasets`` has noted of each column."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}


def are_names(classes: Any) -> bool:
    """Whether they are a list of texts in valid Unicode."""
    try:
        return isinstance(classes, list) and isinstance("".join(classes).encode(), bytes)
    except (TypeError, UnicodeEncodeError):
        return False


def holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and holds_bytes(field.type) for field in kind.fields)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def column_of_pictures(schema: pa.Schema, features: dict[str, dict[str, Any]]) -> str | None:
    """The one that is noted as such, else that has a name for it, else the first of a fitting type."""
    fitting = [field.name for field in schema if holds_bytes(field.type)]
    noted = [name for name in fitting if features.get(name, {}).get("_type") == "Image"]
    named = [name for known in IMAGE for name in fitting if name.lower() == known]
    return next(iter(noted + named + fitting), None)


def column_of_labels(schema: pa.Schema, features: dict[str, dict[str, Any]]) -> str | None:
    """The one that has a name for it, else the first that is noted as such; None if there is none.

    Numbers with a point are classes in a ``label`` alone: a ``target`` of them is a measure. If there is only a
    ``label`` that cannot hold classes it is this one, unless it holds pictures, as masks are.
    """
    fitting = [
        field.name for field in schema
        if is_class(field.type) and (field.name.lower() in csv.LABEL[:2] or not has_point(field.type))
    ]  # fmt: skip
    named = [name for known in csv.LABEL for name in fitting if name.lower() == known]
    noted = [name for name in fitting if features.get(name, {}).get("_type") == "ClassLabel"]
    other = [field.name for field in schema if field.name.lower() in csv.LABEL[:2] and not holds_bytes(field.type)]
    return next(iter(named + noted + other), None)


def is_class(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, has_point)
    return any(test(kind) for test in tests)


def has_point(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def rows(file: pq.ParquetFile, shard: shards.Shard, columns: Columns, largest: int) -> Iterator[Entry]:
    """The entries of one file. Their pictures are read a row group at a time, when and if they are asked for."""
    number = 0
    is_struct = pa.types.is_struct(file.schema_arrow.field(columns.image).type)
    column = f"{columns.image}.bytes" if is_struct else columns.image
    small = [name for name in (columns.label, columns.split) if name is not None]
    for index in range(file.metadata.num_row_groups):
        group = Group(shard, file.metadata, index, column, largest)
        count, size = file.metadata.row_group(index).num_rows, group.expected()
        told = told_in(file, index, small) if small else iter([{}] * count)
        for row, values in enumerate(told):
            label, flaw = named(values.get(columns.label), columns.classes) if columns.label else (None, None)
            split = told_split(values[columns.split], columns.split, shard, number) if columns.split else shard.split
            read = partial(group.read, row) if flaw is None else None
            yield Entry(f"{shard.name}/{number:07d}", label, split, shard.stamp, read, shard.name, flaw, size)
            number += 1


def told_in(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    # Row by row, here and below: a value of megabytes that a dictionary repeats would fill the memory.
    for batch in file.iter_batches(1, row_groups=[group], columns=columns, use_threads=False):
        yield {name: value(batch.column(name)[0]) for name in columns}


def value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return b""


def named(value: Any, classes: list[str] | None) -> tuple[str | None, str | None]:
    """The class that a label stands for, and what is wrong with it; -1 is Hugging Face's word for none.

    Whole numbers may have come with a point: pandas makes doubles of them once one is missing.
    """
    if isinstance(value, float | Decimal):
        if math.isinf(value) or (value == value and int(value) != value):
            return None, f"its label is no class ({value:.6g}; `label: false` if it is a measure)"
        value = int(value) if value == value else None
    if value is None or value == "" or (classes and value == -1):
        return None, "no label"
    if isinstance(value, bytes) or len(str(value)) > LONGEST:
        return None, "its label is too long, or not valid Unicode"
    if not classes or isinstance(value, str):
        return str(value), None
    if not 0 <= value < len(classes):
        return None, f"its label is no class ({value} of {len(classes)})"
    return str(classes[value]), None


def told_split(value: Any, column: str, shard: shards.Shard, row: int) -> str | None:
    """The split that a row tells; raises ``UserError`` as a CSV of labels does."""
    where = f"{shard.name}: column {column!r}, row {row}"
    return csv.division("" if value is None else str(value), where, SPLIT_MEND)


def pictures(path: Path, metadata: pq.FileMetaData, group: int, column: str) -> Iterator[pa.Buffer | None]:
    # Without a buffer before it, a column of a row group comes in pages: some files are one group of gigabytes.
    with pq.ParquetFile(path, metadata=metadata, pre_buffer=False, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(1, row_groups=[group], columns=[column], use_threads=False):
            content = batch.column(0)
            yield (content.field("bytes") if pa.types.is_struct(content.type) else content)[0].as_buffer()


class Group:
    """The pictures of one row group, decoded forwards one at a time: they are asked for in about that order."""

    def __init__(self, shard: shards.Shard, metadata: pq.FileMetaData, index: int, column: str, largest: int) -> None:
        self.shard, self.metadata, self.index, self.column, self.largest = shard, metadata, index, column, largest
        self.lock = Lock()
        self.flaw: str | None = None
        self.restart()

    def expected(self) -> int:
        """Bytes that one picture may have: a dictionary may hold a single one for many rows."""
        group = self.metadata.row_group(self.index)
        columns = map(group.column, range(group.num_columns))
        every = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == self.column)
        return min(self.largest, every)

    def restart(self) -> None:
        self.decoded = pictures(self.shard.file, self.metadata, self.index, self.column)
        self.first, self.size = 0, 0  # the row that the held ones begin with, and their bytes
        self.held: deque[pa.Buffer | None] = deque()

    def read(self, row: int) -> bytes:
        """The picture in a row, counted from the group's first; raises ``ValueError`` if there is none.

        Raises ``UserError`` if the file is another one by now, whose rows have other labels.
        """
        with self.lock:
            try:
                return self.found(row)
            finally:
                archives.unless_changed(self.shard.file, self.shard.stamp)

    def found(self, row: int) -> bytes:
        if self.flaw is None:
            try:
                return self.decoded_to(row)
            except (pa.ArrowException, OSError, StopIteration) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                # Decoding cannot go on behind it, and would fail again for every row that is asked for.
                self.flaw = f"row group {self.index} is damaged"
        raise ValueError(self.flaw)

    def decoded_to(self, row: int) -> bytes:
        if row < self.first:
            self.restart()
        while row >= self.first + len(self.held):
            self.held.append(next(self.decoded))
            self.size += size_of(self.held[-1])
            while len(self.held) > 1 and (len(self.held) > KEPT or self.size > self.largest):
                self.size -= size_of(self.held.popleft())
                self.first += 1
        content = self.held[row - self.first]
        if content is None:
            raise ValueError("no bytes in the file")
        if content.size > self.largest:
            raise ValueError(archives.too_large(self.largest))
        return content.to_pybytes()


def size_of(content: pa.Buffer | None) -> int:
    return 0 if content is None else content.size
