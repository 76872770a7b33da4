"""Draw samples from the trained model, turn them back into images, and save them."""

from __future__ import annotations

from pydantic import Field

from aigc_tasks import knobs


class Knobs(knobs.Compute):
    """The ``postprocess:`` section of a recipe."""

    count: int | None = Field(None, gt=0, description="samples; by default as many as trained on, at most 10,000")
    seed: int = Field(0, ge=0)
