"""The model card (Mitchell et al. 2019, arXiv:1810.03993): what a version is, how good, its limits, how to use it.

Its text depends on data, knobs and figures alone: two checkouts write the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jinja2

from aigc_tasks import layout
from aigc_tasks.card import read_card
from aigc_tasks.clean import arrays
from aigc_tasks.evaluate import doubt
from aigc_tasks.recipe import Recipe, as_dict

FIGURES = {  # as they are called in the card; each has an interval, and a floor under NAME_floor
    "fid": "FID",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "class_accuracy": "class accuracy",
    "class_entropy": "class entropy",
    "memorised": "memorised",
    "memorised_relative": "memorised, relative",
}


def written(settings: Recipe, source: Mapping[str, Any]) -> str:
    """Markdown."""
    assert settings.product is not None
    figures = json.loads((layout.report(settings.name) / "quality.json").read_text())
    report = json.loads((layout.clean(settings.dataset.name) / "report.json").read_text())
    text = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,  # noqa: S701 (Markdown, not HTML)
    )  # fmt: skip
    return text.get_template("modelcard.jinja").render(
        settings=settings,
        product=settings.product,
        card=read_card(layout.model(settings.name)),
        counts=arrays.counts(layout.clean(settings.dataset.name)),
        report=report,
        acquired=said(as_dict(settings.dataset.acquire)),
        model=said(as_dict(settings.family)),
        training=said(as_dict(settings.train)),
        steps=[said(step.model_dump(mode="json")) for step in settings.postprocess.steps],
        sampling=said(as_dict(settings.sampling)),
        figures=figures,
        rows=[row(name, words, figures) for name, words in FIGURES.items() if name in figures],
        doubt=doubt(figures),
        commit=source["commit"],
        changed=source["changed"],
    )


def said(knobs: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in knobs.items() if value not in (None, [], {}, ""))


def row(name: str, words: str, figures: Mapping[str, float]) -> str:
    """A line of the table of figures."""
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    interval = "" if low is None or high is None else f"{low:.3g} … {high:.3g}"
    floor = figures.get(f"{name}_floor")
    return f"| {words} | {figures[name]:.3g} | {interval} | {'' if floor is None else f'{floor:.3g}'} |"
