"""The judge of a data set: a small classifier whose features FID and KID are measured in, shared by its recipes."""

from __future__ import annotations

from pydantic import Field

from aigc_tasks import knobs


class Knobs(knobs.Compute):
    """The ``features:`` section of a data set."""

    steps: int = Field(1000, gt=0, description="batches to learn from")
    batch: int = Field(64, gt=0, description="images per step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's, at the first step; falls to 0 on a half cosine")
    width: int = Field(32, gt=0, description="channels at full resolution")
    seed: int = Field(0, ge=0)
