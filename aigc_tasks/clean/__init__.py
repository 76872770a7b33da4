"""Turn raw entries into one memory-mappable array per split and a manifest that accounts for every entry.

``data/clean/NAME`` holds ``train.npy``, ``val.npy``, ``test.npy`` (uint8 N×C×H×W), ``manifest.parquet`` (one row per
entry: what it is, its split, or the reason it was dropped), ``profile.npz`` (what drift is measured against) and
``report.json``. ``reports/data/NAME.html`` shows it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aigc_tasks import knobs

Policy = Literal["drop", "flag", "off"]


class Checks(knobs.Knobs):
    """What is looked for, and what follows: ``drop`` it, keep it but ``flag`` it in the manifest, or ``off``."""

    truncated: Policy = Field("drop", description="a file that breaks off; else what is there is shown, the rest grey")
    wrong_type: Policy = Field("flag", description="a picture of another type than the ending of its name says")
    animation: Policy = Field("drop", description="more than one frame; else the first is taken")
    odd_mode: Policy = Field(
        "flag",
        description="CMYK, palette, alpha, 16 bit, EXIF rotation, colour profile: converted to plain grey or RGB",
    )
    too_small: Policy = Field("drop", description="a side shorter than `smallest`")
    extreme_aspect: Policy = Field("drop", description="one side more than `aspect` times the other")
    blank: Policy = Field("drop", description="a standard deviation of less than `contrast` levels of 255")
    label_conflict: Policy = Field("drop", description="the same pixels under different labels: none can be trusted")
    duplicate: Policy = Field("drop", description="the same pixels again")
    near_duplicate: Policy = Field("drop", description="almost the same pixels, also of another size or compression")
    outlier: Policy = Field("flag", description="far from all others in a simple embedding")


class Knobs(knobs.Knobs):
    """The ``clean:`` section of a data set."""

    val: float = Field(0.1, gt=0, lt=0.5, description="share kept to choose by, where the source has no val split")
    test: float = Field(0.2, gt=0, lt=0.5, description="share kept to report on, where the source has no test split")
    size: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="side of the square that images are resized and cropped to; without it they stay as they are",
    )
    crop: Literal["centre", "smart", "pad", "stretch"] = Field(
        "centre", description="how a picture that is no square becomes one; smart: where most of its edges are"
    )
    resample: Literal["lanczos", "area"] = Field("lanczos", description="both are antialiased; area never overshoots")
    colour: Literal["auto", "grey", "rgb"] = Field("auto", description="auto: grey if every image is, else rgb")
    checks: Checks = Checks.model_validate({})
    smallest: int = Field(8, ge=1, description="pixels of the shorter side, below which a picture is too small")
    aspect: float = Field(4.0, ge=1, description="the longer side over the shorter, above which it is extreme")
    contrast: float = Field(1.0, ge=0, description="levels of 255, below which a picture counts as blank")
    pixels: int = Field(
        64_000_000, gt=0, description="a picture of more is taken for a decompression bomb, not decoded"
    )
    distance: int = Field(4, ge=0, le=8, description="bits of 64 by which perceptual hashes of near duplicates differ")
    survive: float = Field(0.5, ge=0, le=1, description="share of entries; if less is kept, the stage fails")
    seed: int = Field(0, ge=0, description="another seed gives another division into splits")
