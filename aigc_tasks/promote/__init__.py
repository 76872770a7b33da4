"""Registered products: versions, the gate that decides which one is live, the way back, the proof.

A section ``products:`` of ``params.yaml`` may say more of a product than recipes do that compete for it.
"""

from __future__ import annotations

from pydantic import Field

from aigc_tasks import knobs


class Gate(knobs.Knobs):
    """The ``gate:`` section of a product. A new champion must meet all of it, and be better than the present one."""

    at_most: dict[str, float] = Field({}, description="figures of quality.json and what they may be at most")
    at_least: dict[str, float] = Field({}, description="figures of quality.json and what they must be at least")
    drawings: int = Field(5, gt=1, description="sets of samples, of a seed each, that two models are compared by")
    most: int = Field(1000, gt=1, description="images of such a set at most; fewer if the recipe's `count` is")
    images: int = Field(16, gt=0, description="that the model, as it is served, is asked for at once")
    seconds: float = Field(30.0, gt=0, description="that it may take for them once it is loaded")


class Product(knobs.Knobs):
    """One entry under ``products:``."""

    about: str = Field("", description="what it is for: a sentence of the model card")
    licence: str = Field("", description="of the data, as the model card is to say it")
    gate: Gate = Field(default_factory=lambda: Gate.model_validate({}))
