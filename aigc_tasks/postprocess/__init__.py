"""Draw samples from the trained model, turn them back into images, choose, change and save them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from aigc_tasks import knobs


class Reject(knobs.Knobs):
    """More samples are drawn, so that ``count`` are left of every class in its proportion."""

    do: Literal["reject"]
    by: Literal["quality", "copies"] = Field(description="drop what looks least real, or what is a training image")
    share: float = Field(0.1, gt=0, le=0.9, description="of the drawn samples, dropped; copies first, up to this share")


class Denoise(knobs.Knobs):
    """Non-local means: areas become smooth, edges stay."""

    do: Literal["denoise"]
    strength: float = Field(0.5, ge=0, le=1, description="0 changes nothing, 0.5 suits noise of about 16 grey levels")


class Crop(knobs.Knobs):
    """The centre of the image."""

    do: Literal["crop"]
    height: int = Field(gt=0, description="pixels")
    width: int = Field(gt=0, description="pixels")


class Resize(knobs.Knobs):
    """Smaller or larger, antialiased."""

    do: Literal["resize"]
    side: int = Field(gt=0, le=1024, description="pixels of the shorter side; proportions are kept")


class Enhance(knobs.Knobs):
    """Contrast, then sharpness; 1 changes nothing."""

    do: Literal["enhance"]
    contrast: float = Field(1.0, ge=0, le=10, description="about the image's mean; 0 is all grey")
    sharpness: float = Field(1.0, ge=0, le=10, description="below 1 blurs")


class Upscale(knobs.Knobs):
    """A whole number of times as high and as wide."""

    do: Literal["upscale"]
    factor: int = Field(2, ge=1, le=16)
    filter: Literal["nearest", "bicubic", "lanczos"] = Field("lanczos", description="nearest keeps the pixels square")


Change = Denoise | Crop | Resize | Enhance | Upscale
"""A step that changes pixels, each image by itself."""

Step = Annotated[Reject | Change, Field(discriminator="do")]


class Knobs(knobs.Compute):
    """The ``postprocess:`` section of a recipe."""

    count: int | None = Field(None, gt=1, description="samples; by default as many as trained on, at most 10,000")
    seed: knobs.Seed = 0
    sampling: dict[str, Any] = Field({}, description="knobs of the family's sampler")
    steps: list[Step] = Field([], description="what is done to the samples, in this order")
    save: list[Literal["png", "webp", "interpolation", "gif"]] = Field(
        ["png"], description="beside samples.npy, labels.npy and the grid"
    )

    @field_validator("steps")
    @classmethod
    def reject_first(cls, steps: list[Step]) -> list[Step]:
        """Judge and training images know the pixels that the model draws, not those that a step makes of them."""
        kinds = [step.do for step in steps]
        if kinds != sorted(kinds, key=lambda kind: kind != "reject"):
            raise ValueError("`reject` compares samples as the model drew them; move it before the other steps")
        return steps

    @property
    def rejects(self) -> list[Reject]:
        """The steps that choose, which come first."""
        return [step for step in self.steps if isinstance(step, Reject)]

    @property
    def changes(self) -> list[Change]:
        """The steps that change pixels, which come last."""
        return [step for step in self.steps if not isinstance(step, Reject)]
