"""Measure samples against real images the model has not seen."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from aigc_tasks import knobs


class Knobs(knobs.Compute):
    """The ``evaluate:`` section of a recipe."""

    kid_subsets: int = Field(50, gt=0, description="random subsets KID is averaged over")
    kid_subset_size: int = Field(300, gt=1, description="images in each of them")
    neighbours: int = Field(5, gt=0, description="k of precision, recall, density and coverage")
    seed: knobs.Seed = Field(0, description="of the choice of subsets and of resampling")


def doubt(figures: Mapping[str, float]) -> str:
    """Why FID and its ratio are not to be trusted, in a few words; empty where they are.

    The covariance of fewer images than features has directions in which nothing was seen.
    """
    images, features = min(figures["samples"], figures["test_images"]), figures["features"]
    if images >= features:
        return ""
    return f"few images ({images:.0f}) for {features:.0f} features: FID and its ratio are not to be trusted"
