"""What the figures say, in a sentence and as one HTML page that holds its own pictures."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader

from aigc_tasks.card import Card
from aigc_tasks.evaluate import by_heart, doubt
from aigc_tasks.evaluate.figures import Figures
from aigc_tasks.recipe import Recipe

mpl.use("Agg")
MEANINGS = {  # in the order of the page
    "fid": "distance of the samples to all real images (Fréchet, Heusel 2017); lower is better",
    "kid": "the same without bias from the number of images (Bińkowski 2018); lower is better",
    "precision": "samples that look like some real image (Kynkäänniemi 2019): quality",
    "recall": "real images that some sample looks like (Kynkäänniemi 2019): diversity",
    "density": "how many real images a sample looks like (Naeem 2020): quality; 1 is usual",
    "coverage": "real images with a sample next to them (Naeem 2020): diversity",
    "class_accuracy": "samples that the judge takes for the class they were asked for",
    "class_entropy": "1 if all classes are equally frequent, 0 if there is but one",
    "memorised": "samples nearer to a training image than 99 % of the test images are, by pixels; blurred ones, too",
    "memorised_relative": "the same, by that distance over the mean of the next 50: what is blurred or flat is no copy",
    "memorised_features": "samples nearer by the judge's features",
    "bits_per_dimension": "bits to encode one value of a test image; lower is better",
    "bits_per_dimension_train": "the same of training images: much lower means overfitted",
}


def sentence(figures: Figures) -> str:
    """The result in a line."""
    said = f"FID {figures['fid']:.3g}, {figures['fid_ratio']:.2f} × real against real"
    said += f"; precision {figures['precision']:.2f}, recall {figures['recall']:.2f}"
    said += f"; {by_heart(figures)}"
    said += f"; post-processing {helped(figures)}" if "postprocess_gain" in figures else ""
    return said + (f"; {doubt(figures)}" if doubt(figures) else "")


def helped(figures: Figures) -> str:
    """Whether post-processing helped, by validation FID, and beyond what chance would do."""
    before, gain = figures["before_val_fid"], figures["postprocess_gain"]
    chance = (figures["before_val_fid_high"] - figures["before_val_fid_low"]) / 2  # half the 95 % interval
    verdict = "helped" if gain > chance else "did harm" if -gain > chance else "made no difference beyond chance"
    return f"{verdict} (validation FID {before:.3g} before, {before - gain:.3g} after)"


def write(
    folder: Path,
    settings: Recipe,
    card: Card,
    figures: Figures,
    progress: list[dict[str, float]],
    floor: float,
    nearest: list[float],
) -> None:
    """``report.html`` in the folder, from the figures and the pictures that lie there."""
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("report.jinja")
    learned = sum(card.counts)
    with open(folder / "curves.csv", newline="") as file:
        curves = [{name: float(value) for name, value in point.items()} for point in csv.DictReader(file)]
    content = page.render(
        name=settings.name,
        sentence=sentence(figures),
        facts={
            "data set": settings.dataset.name,
            "learned from": f"{learned} images of {'×'.join(map(str, card.shape))}",
            "family": f"{card.family} on {card.network}",
            "classes": ", ".join(card.classes) or "not used",
            "samples measured": f"{figures['samples']:.0f} against {figures['test_images']:.0f} test images",
            "trained": f"{settings.train.steps} steps of {min(settings.train.batch, learned)} images",
        },
        table=[row(name, figures) for name in MEANINGS if name in figures],
        validation=[row(name, figures, "val_") for name in MEANINGS if f"val_{name}" in figures],
        helped=helped(figures) if "postprocess_gain" in figures else None,
        pictures={path.stem: embedded(path.read_bytes()) for path in sorted(folder.glob("*.png"))},
        curves=embedded(plotted(curves, {}, logarithmic=False)),
        progress=embedded(plotted(progress, {"fid": floor}, logarithmic=True)),
        nearest=", ".join(f"{distance:.1f}" for distance in nearest),
    )
    (folder / "report.html").write_text(content)


def row(name: str, figures: Figures, prefix: str = "") -> dict[str, Any]:
    """One line of the table: value, interval and floor where they are known."""
    low, high = (figures.get(f"{prefix}{name}_{end}") for end in ("low", "high"))
    if low is None and f"{prefix}{name}_std" in figures:
        interval = f"± {figures[f'{prefix}{name}_std']:.2g}"
    else:
        interval = "" if low is None or high is None else f"{low:.3g} … {high:.3g}"
    floor = figures.get(f"{prefix}{name}_floor")
    return {
        "name": name.replace("_", " "),
        "value": f"{figures[prefix + name]:.3g}",
        "interval": interval,
        "floor": "" if floor is None else f"{floor:.3g}",
        "meaning": MEANINGS[name],
    }


def plotted(rows: list[dict[str, float]], floors: dict[str, float], logarithmic: bool) -> bytes:
    """A PNG with a small plot per column over the column ``step``."""
    from matplotlib.figure import Figure

    names = [name for name in rows[0] if name != "step"]
    figure = Figure(figsize=(3.2 * len(names), 2.6), layout="constrained", dpi=110)
    for number, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), number + 1)
        axes.plot([point["step"] for point in rows], [point[name] for point in rows], color="#2b6cb0", linewidth=1.4)
        if name in floors:
            axes.axhline(floors[name], color="#999999", linestyle="--", linewidth=1)
        if logarithmic and name == "fid":
            axes.set_yscale("log")
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
