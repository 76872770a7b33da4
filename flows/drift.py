"""The task ``drift``: the data as it is now against what the model was trained on."""

from __future__ import annotations

import json
from typing import Any

from prefect import State, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from aigc_tasks import layout
from aigc_tasks.recipe import Recipe
from flows.publishing import embedded

DRIFTED = "Drifted"


@task(name="drift", task_run_name="drift", cache_policy=NO_CACHE, persist_result=False)
def drift(settings: Recipe) -> State:
    """Compare the data as it is now with what the model was trained on; ends Same, Grown or Drifted."""
    if not (layout.model(settings.name) / "profile.npz").exists():
        return Completed(name="Skipped", message=f"{settings.name} has no model here yet to compare its data with")
    from aigc_tasks.drift import drift as compare  # imports SciPy, which schedules and `aigc --help` need not wait for

    compare(settings.name)
    found = json.loads((layout.report(settings.name) / "drift.json").read_text())
    message = in_words(found)
    get_run_logger().info("%s", message)
    publish_drift(found, message)
    return Completed(name=found["verdict"].capitalize(), message=message)


def in_words(found: dict[str, Any]) -> str:
    """The verdict in one line."""
    verdict = {"same": "is the same", "grown": "has grown", "drifted": "has drifted"}[found["verdict"]]
    about = "" if found["exact"] else "about "
    line = f"{found['dataset']} {verdict}: {about}{found['new']:,} images new, {about}{found['gone']:,} gone"
    changed = [test["name"] for test in found["tests"] if test["changed"]]
    picture = layout.report(found["recipe"]) / "drift.png"
    return f"{line}; changed: {', '.join(changed)}; see {picture}" if changed else line


def publish_drift(found: dict[str, Any], message: str) -> None:
    """The tests as a table, and the picture, as an artifact in Prefect's UI."""
    recipe, rows = found["recipe"], ["| | then | now | effect | p | |", "|---|---|---|---|---|---|"]
    for test in found["tests"]:
        name, mark = test["name"].replace("|", "\\|"), "changed" if test["changed"] else ""  # a class may be called a|b
        rows.append(f"| {name} | {test['then']} | {test['now']} | {test['effect']:.2f} | {test['p']:.2g} | {mark} |")
    table, picture = "\n".join(rows), embedded(layout.report(recipe) / "drift.png")
    create_markdown_artifact(
        key=f"{recipe.replace('_', '-')}-drift",
        markdown=f"# {recipe}: {found['verdict']}\n\n{message}\n\n{table}\n\n![drift]({picture})",
        description=found["verdict"],
    )
