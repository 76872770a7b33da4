"""What changed, in one picture: classes and effects, distributions of what images are like, the average image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_tasks.clean.profile import CELLS, Profile
from aigc_tasks.drift.comparison import SMALLEST, UNLABELLED, Drift, described

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THEN, NOW, CHANGED = "#8fa8c8", "#e07b39", "#b3261e"
BARS = 20  # classes that are drawn: those whose share changed most


def picture(old: Profile, new: Profile, found: Drift) -> Figure:
    """Class mix and effects above, what the images are like in the middle, the average image below."""
    from matplotlib.figure import Figure

    changed = {test.name for test in found.changed}
    figure = Figure(figsize=(13, 9.5), layout="constrained", dpi=100)
    figure.suptitle(
        f"{found.verdict}{': ' if changed else ''}{', '.join(test.name for test in found.changed)}",
        fontsize=17, fontweight="bold", color=CHANGED if changed else "black", wrap=True,
    )  # fmt: skip
    grid = figure.add_gridspec(3, 4, height_ratios=[1.15, 1, 1])
    classes = figure.add_subplot(grid[0, :2])
    draw_classes(classes, old, new, changed)
    classes.legend([f"then: {found.then:,} images", f"now: {found.now:,}"], frameon=False, loc="upper center", ncols=2)
    draw_effects(figure.add_subplot(grid[0, 2:]), found)
    values = [described(one.statistics, one.embedding) for one in (old, new)]
    for number, name in enumerate(list(values[0])[2:]):
        place = figure.add_subplot(grid[1 + number // 4, number % 4])
        draw_shares(place, [figures[name] for figures in values], name, name in changed)
    sides = [np.sqrt(figures["width"] * figures["height"]) for figures in values]
    draw_shares(figure.add_subplot(grid[2, 1]), sides, "size, √(width × height)", bool(changed & {"width", "height"}))
    draw_average(figure, figure.add_subfigure(grid[2, 2:]).subplots(1, 3), old, new, changed)
    return figure


def heading(axes: Axes, title: str, changed: bool) -> None:
    axes.set_title(f"{title}: changed" if changed else title, fontsize=11, color=CHANGED if changed else "black")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def draw_classes(axes: Axes, old: Profile, new: Profile, changed: set[str]) -> None:
    """Shares of the classes side by side."""
    shares = [dict(zip(one.classes or [UNLABELLED], one.counts / one.counts.sum(), strict=True)) for one in (old, new)]
    names = list(dict.fromkeys([*shares[0], *shares[1]]))
    most = sorted(names, key=lambda name: -abs(shares[0].get(name, 0) - shares[1].get(name, 0)))[:BARS]
    shown = [name for name in names if name in most]
    for one, colour, shift in zip(shares, (THEN, NOW), (-0.2, 0.2), strict=True):
        axes.bar(np.arange(len(shown)) + shift, [100 * one.get(name, 0) for name in shown], 0.4, color=colour)
    axes.set_xticks(range(len(shown)), [name[:18] for name in shown])
    if sum(map(len, shown)) > 45:
        axes.tick_params(axis="x", rotation=40)
    axes.set_ylim(0, 1.18 * axes.get_ylim()[1])
    more = "" if len(shown) == len(names) else f", the {BARS} of {len(names)} that changed most"
    heading(axes, f"share of each class, %{more}", any(name.startswith("class") for name in changed))


def draw_effects(axes: Axes, found: Drift) -> None:
    """How large each difference is, beside what matters."""
    names, effects = [test.name for test in found.tests], [test.effect for test in found.tests]
    axes.barh(names, effects, 0.6, color=[CHANGED if test.changed else "#bbbbbb" for test in found.tests])
    for row, test in enumerate(found.tests):
        said = f"{test.effect:.2f}   p {test.chance}"
        axes.annotate(said, (test.effect, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.axvline(SMALLEST, color="black", linestyle=":", linewidth=1)
    axes.set_xlim(0, 1.3 * max([0.1, *effects]))
    axes.invert_yaxis()
    heading(axes, "effects; grey ones do not matter or may be chance", False)


def draw_shares(axes: Axes, values: list[np.ndarray], title: str, changed: bool) -> None:
    """Shares of images by a figure: then filled, now a line."""
    heading(axes, title, changed)
    everything = np.concatenate(values)
    if np.ptp(everything) == 0:
        axes.text(0.5, 0.5, f"{everything[0]:.4g} in all images", ha="center", color="#666666")
        axes.set_axis_off()
        return
    low, high = np.quantile(everything, [0.002, 0.998])
    bins = np.linspace(low, high, 33) if low < high else np.linspace(everything.min(), everything.max(), 33)
    parts = [100 * np.histogram(np.clip(one, bins[0], bins[-1]), bins)[0] / len(one) for one in values]
    axes.stairs(parts[0], bins, fill=True, color=THEN)
    axes.stairs(parts[1], bins, color=NOW, linewidth=2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% of images", fontsize=8)


def draw_average(figure: Figure, axes: Any, old: Profile, new: Profile, changed: set[str]) -> None:
    """The average image in 8×8 cells, in its average colour, then and now, and how much brighter it is."""
    colour = CHANGED if "appearance" in changed else "black"
    averages = [one.embedding.mean(axis=0, dtype=float) for one in (old, new)]
    cells = [average[: CELLS**2].reshape(CELLS, CELLS) for average in averages]
    tints = [average[CELLS**2 : CELLS**2 + 3] / max(average[: CELLS**2].mean(), 1e-6) for average in averages]
    shown = [cell[..., None] * tint for cell, tint in zip(cells, tints, strict=True)]
    for one, place, title in zip(shown, axes, ("then", "now"), strict=False):
        place.imshow(np.clip(one / max(part.max() for part in shown), 0, 1), interpolation="nearest")
        place.set_title(title, fontsize=11)
    difference = 255 * (cells[1] - cells[0])
    most = max(10.0, float(np.abs(difference).max()))
    drawn = axes[2].imshow(difference, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    axes[2].set_title("now − then, levels", fontsize=11)
    figure.colorbar(drawn, ax=axes[2], shrink=0.6)
    for place in axes:
        place.set_xticks([])
        place.set_yticks([])
    axes[0].set_ylabel("average image", color=colour, fontsize=11)
