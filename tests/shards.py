"""Shards of samples: Parquet files as Hugging Face writes them, and the members of a WebDataset's tar files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pictures import png


def hugging_face(file: Path, count: int, first: int = 0, rows: int = 100, **columns: Any) -> Path:
    """A Parquet file in the layout of Hugging Face's ``datasets``, classes and all."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}
    numbers = range(first, first + count)
    table = {
        "image": pa.array([{"bytes": png(number), "path": None} for number in numbers], pa.struct(
            [("bytes", pa.binary()), ("path", pa.string())]
        )),
        "label": pa.array([number % 3 for number in numbers], pa.int64()),
        **columns,
    }  # fmt: skip
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), file, row_group_size=rows)
    return file


def sample(number: int, label: object = None, ending: str = "cls", key: str = "") -> dict[str, bytes]:
    """The members of one sample, with a label in a file of its own."""
    key = key or f"{number:04d}"
    beside = {} if label is None else {f"{key}.{ending}": str(label).encode()}
    return {**beside, f"{key}.png": png(number)}
