"""What came out, as artifacts in Prefect's UI."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from aigc_tasks import layout

DETAILS = ("_low", "_high", "_std")  # of figures, left to the report


def quality(recipe: str, description: str) -> None:
    """The figures as a table, and the sample grid."""
    figures = json.loads((layout.report(recipe) / "quality.json").read_text())
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items() if not name.endswith(DETAILS))
    create_markdown_artifact(
        key=f"{recipe.replace('_', '-')}-quality",
        markdown=f"# {recipe}\n\n| figure | value |\n|---|---|\n{rows}\n\n![samples]({grid(recipe)})",
        description=description,
    )


def grid(recipe: str) -> str | None:
    """The sample grid as it is now, None if there is none."""
    path = layout.report(recipe) / "grid.png"
    return embedded(path) if path.exists() else None


def samples(recipe: str, before: str | None) -> None:
    """The sample grid before a retraining and after it."""
    if before is None:
        return
    create_markdown_artifact(
        key=f"{recipe.replace('_', '-')}-samples",
        markdown=f"# {recipe}\n\n| before | now |\n|---|---|\n| ![before]({before}) | ![now]({grid(recipe)}) |",
        description="samples before and now",
    )


def embedded(picture: Path) -> str:
    """A PNG as an address that holds it: Prefect's server cannot read our files."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def data(dataset: str) -> None:
    """What became of the data: the counts, and where the report with the pictures lies."""
    report = json.loads((layout.clean(dataset) / "report.json").read_text())
    counts = {"entries": report["samples"], "kept": report["kept"], **report["splits"]}
    counts |= {f"dropped: {reason}": count for reason, count in report["dropped"].items()}
    counts |= {f"flagged: {flag}": count for flag, count in report["flagged"].items()}
    rows = "\n".join(f"| {name} | {count} |" for name, count in counts.items())
    page = layout.data_report(dataset).resolve()
    create_markdown_artifact(
        key=f"{dataset.replace('_', '-')}-data",
        markdown=f"# {dataset}\n\n| | |\n|---|---|\n{rows}\n\n[The report with pictures]({page.as_uri()}): {page}",
        description="what the data set is made of",
    )


def decision(recipe: str, product: str, verdict: str, table: str, picture: Path) -> None:
    """The gate's table and both grids."""
    create_markdown_artifact(
        key=f"{recipe.replace('_', '-')}-gate",
        markdown=f"# {product}\n\n{verdict}\n\n{table}\n\n![samples]({embedded(picture)})",
        description=verdict.split(": ")[0],
    )
