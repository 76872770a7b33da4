"""Is the data that is there now still like the data a model was trained on: the same, grown, or drifted?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from aigc_tasks import layout
from aigc_tasks.clean import profile
from aigc_tasks.drift.comparison import LEVEL, SMALLEST, Drift, compare
from aigc_tasks.drift.picture import picture
from aigc_tasks.errors import UserError
from aigc_tasks.recipe import recipe as settings


def drift(recipe: str) -> str:
    """What became of the data since the recipe's model was trained, in words; writes ``drift.json`` and ``drift.png``
    into its report. Raises ``UserError``.
    """
    dataset = settings(recipe).dataset.name
    trained, cleaned = layout.model(recipe) / "profile.npz", layout.clean(dataset) / "profile.npz"
    if not trained.exists():
        raise UserError(f"{trained}: not known what {recipe} was trained on; first: aigc run {recipe}")
    if not cleaned.exists():
        raise UserError(f"{cleaned}: {dataset} has not been cleaned; first: dvc repro clean@{dataset}")
    old, new = profile.read(trained), profile.read(cleaned)
    found = compare(old, new)
    report = layout.report(recipe)
    content = {"recipe": recipe, "dataset": dataset, "level": LEVEL, "smallest": SMALLEST, **asdict(found)}
    layout.replace(report / "drift.json", json.dumps(rounded(content), indent=2, ensure_ascii=False) + "\n")
    with layout.written(report / "drift.png") as file:
        picture(old, new, found).savefig(file, format="png", metadata={"Software": None})
    return f"{told(recipe, dataset, found)}\npicture  {report / 'drift.png'}"


def rounded(content: Any) -> Any:
    """With six significant digits: the last ones depend on the machine's libraries."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content


MEANING = {
    "same": "{dataset} has nothing new, and is like what the model was trained on; nothing to do",
    "grown": "{dataset} has {new} new images, of the kind the model was trained on; "
    "to train on them too: aigc run {recipe}",
    "exchanged": "{dataset} has {new} new images, of the kind the model was trained on, and {gone} are gone; "
    "to train on what is there now: aigc run {recipe}",
    "replaced": "{dataset} has been replaced by {new} new images, of the kind the model was trained on; all {gone} "
    "that it was trained on are gone; to train on what is there now: aigc run {recipe}",
    "drifted": "{dataset} is no longer like what the model was trained on",
}


def sentence(found: Drift) -> str:
    """The one of ``MEANING`` that fits."""
    if found.verdict != "grown" or not found.gone:
        return MEANING[found.verdict]
    return MEANING["replaced" if found.gone == found.then else "exchanged"]


def told(recipe: str, dataset: str, found: Drift) -> str:
    """Verdict first, then the images, then a row per test, then what to do."""
    new, gone = (f"{'' if found.exact else 'about '}{number:,}" for number in (found.new, found.gone))
    lines = [
        f"{recipe}: {found.verdict}: {sentence(found).format(recipe=recipe, dataset=dataset, new=new, gone=gone)}",
        f"images  {found.then:,} then, {found.now:,} now; {new} new, {gone} gone",
        "",
    ]
    rows = [["", "then", "now", "effect", "p", ""]]
    for test in found.tests:
        mark = "changed" if test.changed else ""
        rows.append([test.name, test.then, test.now, f"{test.effect:.2f}", test.chance, mark])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [
        "",
        "then, now: the middle image's; widths and heights in pixels, the others in levels of 255",
        f"effect: how far apart; up to {SMALLEST} does not matter.  p: how easily chance alone does that",
        f"changed: further apart than that, and hardly by chance ({LEVEL:.0%} over all rows together)",
    ]
    if found.verdict == "drifted":
        wanted = f"if it is as it should be, train on it: aigc run {recipe}; if not, mend {dataset}'s source"
        lines.append(f"look at the picture and at {layout.data_report(dataset)}; {wanted}")
    return "\n".join(lines)
