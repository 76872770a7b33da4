"""The judge of a data set: what sees the features that quality is measured in, shared by all its recipes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from aigc_tasks import knobs


class Knobs(knobs.Compute):
    """The ``features:`` section of a data set."""

    kind: Literal["auto", "classifier", "selfsupervised", "pixels", "pretrained"] = Field(
        "auto",
        description="what sees: a classifier of the data set where it has labels, else a self-supervised network",
    )
    pretrained: str = Field("inception_v3", description="kind pretrained: a network of torchvision's")
    weights: str | None = Field(None, description="kind pretrained: its weights, a .pth or .safetensors file of yours")
    steps: int = Field(1000, gt=0, description="batches to learn from")
    batch: int = Field(64, gt=1, description="images per step")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's, at the first step; falls to 0 on a half cosine")
    width: int = Field(32, gt=0, description="channels at full resolution")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def weights_are_given(self) -> Knobs:
        if self.kind == "pretrained" and self.weights is None:
            raise ValueError("weights: missing; name the file that holds the weights, nothing is downloaded")
        return self
