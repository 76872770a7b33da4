"""The loop that trains every family. It knows none of them by name."""

from __future__ import annotations

from pydantic import Field

from aigc_tasks import knobs


class Knobs(knobs.Compute):
    """The ``train:`` section of a recipe."""

    steps: int = Field(4000, gt=0, description="batches to learn from")
    batch: int = Field(32, gt=0, description="images per step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's, at the first step")
    final_learning_rate: float = Field(
        0.02, gt=0, le=1, description="share of it left at the last step; linear between"
    )
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    ema: float = Field(0.995, ge=0, lt=1, description="decay of the moving average that becomes the model; 0 for none")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(200, gt=0, description="steps between two states a killed run can resume from")
    log_every: int = Field(20, gt=0, description="steps that one point of the curves is the mean of")
    picture_every: int = Field(400, gt=0, description="steps between two sample grids in MLflow")
