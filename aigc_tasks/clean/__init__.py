"""Turn raw files into one memory-mappable array per split and a manifest that accounts for every sample.

``data/clean/NAME`` holds ``train.npy``, ``val.npy``, ``test.npy`` (uint8 N×C×H×W), ``manifest.parquet`` (one row per
input sample: id, source, sha256, label, split, row, reason) and ``report.json``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aigc_tasks import knobs


class Knobs(knobs.Knobs):
    """The ``clean:`` section of a data set."""

    val: float = Field(0.1, gt=0, lt=0.5, description="share kept to choose by, where the source has no val split")
    test: float = Field(0.2, gt=0, lt=0.5, description="share kept to report on, where the source has no test split")
    size: int | None = Field(
        None,
        ge=4,
        description="side of the square that images are resized and cropped to; without it they stay as they are",
    )
    colour: Literal["auto", "grey", "rgb"] = Field("auto", description="auto: grey if every image is, else rgb")
    seed: int = Field(0, ge=0, description="another seed gives another division into splits")
