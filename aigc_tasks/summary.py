"""What a user wants to know of recipes: what a run has come to, and which are in use, stale or never run."""

from __future__ import annotations

import json
import os
from typing import Any

from aigc_tasks import graph, layout, tracking
from aigc_tasks import recipe as recipes
from aigc_tasks.card import read_card
from aigc_tasks.errors import UserError
from aigc_tasks.evaluate import by_heart
from aigc_tasks.promote import promoting


def result(recipe: str) -> str:
    """What a user wants to know after a run: quality, pictures, where to look further."""
    figures = quality(recipe)
    extra = ""
    if "classes_present" in figures:
        extra = f"          {figures['classes_present']} of {figures['classes']} classes present"
        extra += f", class accuracy {figures['class_accuracy']:.1%}\n" if "class_accuracy" in figures else "\n"
    live = ""
    if recipes.recipe(recipe).product is not None and (outcome := promoting.known(recipe)) is not None:
        live = f"product   {promoting.verdict(outcome)}\n"
    run_id = tracking.find_run(tracking.open_client(), read_card(layout.model(recipe)).fingerprint)
    return "\n".join(
        [
            f"quality   FID {figures['fid']:.3g}, {figures['fid_ratio']:.2f} × real against real",
            f"          precision {figures['precision']:.2f} (real {figures['precision_floor']:.2f}), recall"
            f" {figures['recall']:.2f} (real {figures['recall_floor']:.2f})",
            f"          {by_heart(figures)}",
            f"{extra}{live}samples   {layout.report(recipe) / 'grid.png'}",
            f"report    {layout.report(recipe) / 'report.html'}",
            f"MLflow    run {run_id or 'not in this store'}",
            "look      aigc ui      MLflow and Prefect in the browser",
            "          dvc repro    reproduce it, by hand" + activate(),
        ]
    )


def activate() -> str:
    """The line that makes the commands above work in this shell, where they do not yet."""
    return "" if "VIRTUAL_ENV" in os.environ else "\n          (first: . .venv/bin/activate)"


def quality(recipe: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((layout.report(recipe) / "quality.json").read_text())
    return figures


def in_use() -> list[str]:
    """A line for each recipe of params.yaml: up to date, stale and why, or never run; and the quality last measured."""
    names = recipes.names()
    said: dict[str, str] = {}
    targets: dict[str, list[str]] = {}
    for name in names:
        try:
            targets[name] = graph.targets(name, recipes.recipe(name).dataset.name)
        except UserError as error:
            said[name] = f"broken: {error}"
    why = graph.stale([target for some in targets.values() for target in some])
    said |= {name: state(name, {at: why[at] for at in some if at in why}) for name, some in targets.items()}
    width = max(map(len, names), default=0)
    return [f"{name:{width}}  {said[name]}" for name in names]


def offered() -> list[str]:
    """The ready-made recipes that are not in use."""
    return sorted(path.stem for path in layout.CATALOGUE.glob("*.yaml") if path.stem not in recipes.names())


def state(name: str, why: dict[str, str]) -> str:
    """One recipe's state in words; ``why`` names its stale stages."""
    report = layout.report(name) / "quality.json"
    measured = f"FID {quality(name)['fid_ratio']:.2f} × real against real" if report.exists() else ""
    if not why:
        return f"up to date   {measured}"
    if why.get(f"train@{name}") == graph.NEVER and not layout.model(name).exists():
        return graph.NEVER
    target, reason = next(iter(why.items()))
    return f"stale        {measured}{' (before)' if measured else ''}  because {target}: {reason}"
