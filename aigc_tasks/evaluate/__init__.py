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


def by_heart(figures: Mapping[str, float]) -> str:
    """The share of samples learned by heart, in a few words; and, where blur alone brought them near, that it did.

    An average of all images is near to each of them: taken for copied is what lies near by both distances.
    """
    said, relative = f"{figures['memorised']:.1%} memorised", figures.get("memorised_relative")
    if relative is None or figures["memorised_relative_high"] >= figures["memorised_low"]:
        return said
    return f"{said}, but {relative:.1%} by the relative distance: blurred rather than copied"
