"""The loop that trains every family. It knows none of them by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aigc_tasks import knobs


class Flip(knobs.Knobs):
    """Left and right changed for each other, with probability ½ for every image. Not for letters and digits."""

    do: Literal["flip"]


class Affine(knobs.Knobs):
    """Turned, moved and scaled, an eighth of a batch at a time; what comes in from outside is black."""

    do: Literal["affine"]
    degrees: float = Field(5.0, ge=0, le=180, description="turned by up to this, either way")
    translate: float = Field(0.05, ge=0, lt=1, description="moved by up to this share of the side")
    scale: float = Field(0.0, ge=0, lt=1, description="larger or smaller by up to this share")


class Colour(knobs.Knobs):
    """Brightness, contrast, saturation and hue, each by up to this share, an eighth of a batch at a time."""

    do: Literal["colour"]
    brightness: float = Field(0.1, ge=0, le=1)
    contrast: float = Field(0.1, ge=0, le=1)
    saturation: float = Field(0.1, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5)


Augmentation = Annotated[Flip | Affine | Colour, Field(discriminator="do")]


class Knobs(knobs.Compute):
    """The ``train:`` section of a recipe. A family may have other defaults: its ``training``."""

    steps: int = Field(4000, gt=0, description="batches to learn from")
    batch: int = Field(32, gt=0, description="images per step")
    accumulate: int = Field(1, gt=0, description="parts that a batch is taken in where it does not fit into memory")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's, at its highest")
    final_learning_rate: float = Field(0.02, gt=0, le=1, description="share of it left at the last step")
    warmup: int = Field(0, ge=0, description="steps in which the learning rate rises from nothing")
    schedule: Literal["linear", "cosine"] = Field("linear", description="how it falls from there to the last step")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    clip: float = Field(0.0, ge=0, description="largest norm of a network's gradient; 0 for no limit")
    ema: float = Field(0.995, ge=0, lt=1, description="decay of the moving average that becomes the model; 0 for none")
    ema_power: float = Field(
        8.0, ge=0, description="how fast that average forgets, up to `ema`: step n weighs as n to this power"
    )
    augment: list[Augmentation] = Field([], description="changes by chance to training images, as if there were more")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the networks' inner arithmetic")
    compile: bool = Field(False, description="the network that samples, by torch.compile; wants a C++ compiler")
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(200, gt=0, description="steps between two states a killed run can resume from")
    log_every: int = Field(20, gt=0, description="steps that one point of the curves is the mean of")
    picture_every: int = Field(400, gt=0, description="steps between two looks at the samples: a grid, and the quality")

    @model_validator(mode="after")
    def parts_are_whole(self) -> Knobs:
        if self.batch % self.accumulate:
            raise ValueError(
                f"a batch of {self.batch} cannot be taken in {self.accumulate} equal parts; "
                "change `batch` or `accumulate`"
            )
        return self
