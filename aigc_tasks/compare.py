"""Recipes side by side: a table of what was measured, and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aigc_tasks import evaluate, graph, layout, lockfile, stage
from aigc_tasks.errors import UserError
from aigc_tasks.evaluate import doubt
from aigc_tasks.recipe import Recipe, recipe

PICTURE = Path("reports/compare.png")
ROWS = {  # figure: whether more is better; None where it depends
    "fid_ratio": False,
    "fid": False,
    "kid": None,
    "precision": True,
    "recall": True,
    "density": None,
    "coverage": True,
    "class_accuracy": True,
    "class_entropy": True,
    "memorised": False,
    "memorised_relative": False,
    "bits_per_dimension": False,
}
PLOTTED = ("fid_ratio", "precision", "recall", "coverage")


def compare(names: list[str]) -> str:
    """The table, with notes where the figures do not compare; draws ``PICTURE``. Raises ``UserError``."""
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise UserError(f"compare: takes two or more different recipes, got {names[0]} alone; name another beside it")
    settings = {name: recipe(name) for name in names}
    figures = {name: measured(name) for name in names}
    draw(figures)
    apart = incomparable(settings, figures)
    known = [row for row in ROWS if any(row in found for found in figures.values())]
    lines = [["", *names], *([row, *cells(row, figures, starred=not apart)] for row in known)]
    seconds = {name: stage.seconds(f"train@{name}") for name in names}
    lines.append(["training, s", *(f"{value:.0f}" if value else "" for value in seconds.values())])
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    legend = apart or "* best of the row, as far as its 95 % interval is apart from the next"
    spread = ["± standard deviation over random subsets, which is no interval"] if "kid" in known else []
    doubts = [f"{name}: {doubt(found)}" for name, found in figures.items() if doubt(found)]
    return "\n".join([*table, legend, *spread, *doubts, *outdated(settings), f"picture  {PICTURE}"])


def measured(name: str) -> dict[str, Any]:
    try:
        figures: dict[str, Any] = json.loads((layout.report(name) / "quality.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{layout.report(name)}: {name} has not been measured yet; first: aigc run {name}") from None
    if "features" not in figures:
        raise UserError(f"{layout.report(name)}: measured by an earlier version; next: aigc run {name}")
    return figures


def incomparable(settings: dict[str, Recipe], figures: dict[str, dict[str, Any]]) -> str:
    """Why no recipe can be called the best, in a line; empty if one judge measured all alike."""
    if len({found.dataset.name for found in settings.values()}) > 1:
        return (
            "of different data sets and so by different judges: ratios and shares compare with care; nothing is starred"
        )
    judges = {name: judge(found) for name, found in settings.items()}
    if len(set(judges.values())) > 1:
        which = ", ".join(f"{name} by {known[:8] or 'one unknown'}" for name, known in judges.items())
        return f"by different judges ({which}): nothing compares, nothing is starred"
    # FID falls with more samples; shares that balls tell grow with them, and with the balls' neighbours
    ways = {name: f"{figures[name]['samples']} samples, {neighbours(name)} neighbours" for name in settings}
    if len(set(ways.values())) > 1:
        which = "; ".join(f"{name} with {way}" for name, way in ways.items())
        return f"not measured alike ({which}): ratios compare with care; nothing is starred"
    return ""


def measuring(name: str) -> dict[str, Any]:
    """What ``dvc.lock`` records of the evaluation that the recipe's figures are of; nothing where it has none."""
    return dict(lockfile.stages().get(f"evaluate@{name}", {}))


def judge(settings: Recipe) -> str:
    """DVC's hash of the judge that the recipe's figures were measured by, as ``dvc.lock`` records it."""
    path = str(layout.features(settings.dataset.name))
    used = measuring(settings.name).get("deps", [])
    return next((str(dependency["md5"]) for dependency in used if dependency["path"] == path), "")


def neighbours(name: str) -> int:
    """The neighbours that the balls reached to then, whatever ``params.yaml`` says now."""
    knobs = measuring(name).get("params", {}).get(str(layout.PARAMS), {}).get(f"recipes.{name}.evaluate") or {}
    return int(knobs.get("neighbours", evaluate.Knobs.model_fields["neighbours"].default))


def outdated(settings: dict[str, Recipe]) -> list[str]:
    """A line for each recipe that has changed since it was measured."""
    try:
        targets = {name: graph.targets(name, found.dataset.name) for name, found in settings.items()}
        why = graph.stale([target for some in targets.values() for target in some])
    except UserError as error:
        return [f"whether the figures are stale is not known: {error}"]
    stale = [name for name, some in targets.items() if not why.keys().isdisjoint(some)]
    return [f"stale: {name} has changed since it was measured; aigc run {name}" for name in stale]


def cells(row: str, figures: dict[str, dict[str, Any]], starred: bool) -> list[str]:
    """One row: each recipe's value with its interval or KID's spread; if ``starred``, a star at the clearly best."""
    winner = best(row, figures) if starred else None
    said = []
    for name, found in figures.items():
        if row not in found:
            said.append("")
            continue
        low, high = bounds(row, found)
        interval = f" ({low:.3g} … {high:.3g})" if low < high else ""
        interval = f" ± {found['kid_std']:.2g}" if row == "kid" else interval
        said.append(f"{found[row]:.3g}{interval}{' *' if name == winner else ''}")
    return said


def bounds(row: str, found: dict[str, Any]) -> tuple[float, float]:
    """The 95 % interval of a figure, the ratio's from FID's; the figure itself twice where it has none."""
    if row == "fid_ratio":
        return found["fid_low"] / found["fid_floor"], found["fid_high"] / found["fid_floor"]
    return found.get(f"{row}_low", found[row]), found.get(f"{row}_high", found[row])


def best(row: str, figures: dict[str, dict[str, Any]]) -> str | None:
    """The recipe whose interval is on the better side of all others', if there is one."""
    known = {name: bounds(row, found) for name, found in figures.items() if row in found}
    if ROWS[row] is None or len(known) < 2:
        return None
    for name, (low, high) in known.items():
        others = [other for at, other in known.items() if at != name]
        if all(low > other[1] if ROWS[row] else high < other[0] for other in others):
            return name
    return None


def draw(figures: dict[str, dict[str, Any]]) -> None:
    """Bars with intervals above, the sample grids below."""
    import matplotlib as mpl
    from matplotlib import image as images
    from matplotlib.figure import Figure

    mpl.use("Agg")
    names = list(figures)
    columns = max(len(names), len(PLOTTED))
    figure = Figure(figsize=(3.2 * columns, 6.4), layout="constrained", dpi=110)
    above, below = figure.subfigures(2, 1, height_ratios=[2, 3], squeeze=True)  # type: ignore[misc]
    for number, row in enumerate(PLOTTED):
        axes = above.add_subplot(1, len(PLOTTED), number + 1)
        values = [found[row] for found in figures.values()]
        ends = [bounds(row, found) for found in figures.values()]
        errors = [
            [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)],
            [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)],
        ]
        bars = axes.bar(range(len(names)), values, yerr=errors, capsize=3, color=[f"C{at}" for at in range(len(names))])
        axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)  # also where a bar of 0 is not to be seen
        axes.margins(y=0.15)
        if row == "fid_ratio":
            axes.axhline(1, color="#999999", linestyle="--", linewidth=1)
            axes.set_yscale("log" if max(values) > 10 * min(values) else "linear")
        axes.set_xticks([])
        axes.set_title("FID, times real against real" if row == "fid_ratio" else row, fontsize=10)
    grids = {name: images.imread(layout.report(name) / "grid.png") for name in names}
    high, wide = (max(grid.shape[side] for grid in grids.values()) for side in (0, 1))
    for number, (name, grid) in enumerate(grids.items()):
        axes = below.add_subplot(1, len(names), number + 1)
        axes.imshow(grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xlim=(0, wide), ylim=(high, 0))  # one scale for all
        axes.set_axis_off()
        axes.set_title(name, fontsize=11, color=f"C{number}")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Software": None})
