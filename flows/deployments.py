"""The deployments of the recipes in use: served by ``aigc serve``, or written into ``prefect.yaml`` for a work pool."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval
from prefect.schedules import Schedule as PrefectSchedule
from ruamel.yaml import YAML

from aigc_tasks import layout
from aigc_tasks import recipe as recipes
from aigc_tasks.errors import UserError
from aigc_tasks.recipe import Recipe
from aigc_tasks.schedule import BY_HAND, Schedule
from aigc_tasks.watch import CHANGED, resource
from flows.retrain import retrain

ENTRYPOINT = "flows/retrain.py:retrain"
FILE = Path("prefect.yaml")
POOL = "aigc"
BEGUN = "2000-01-01T00:00:00+00:00"  # intervals count from one day for good, or each `aigc serve` would begin anew
STRATEGIES = {"skip": "CANCEL_NEW", "queue": "ENQUEUE"}


def schedules(schedule: Schedule) -> list[dict[str, Any]]:
    if schedule.cron is not None:
        return [{"cron": schedule.cron, "timezone": schedule.timezone}]
    if schedule.interval is not None:
        return [{"interval": schedule.interval, "anchor_date": BEGUN}]
    return []


def kept(told: dict[str, Any]) -> PrefectSchedule:
    """The same as Prefect's own object."""
    if "cron" in told:
        return Cron(told["cron"], timezone=told["timezone"])
    return Interval(told["interval"], anchor_date=datetime.fromisoformat(told["anchor_date"]))


def triggers(settings: Recipe) -> list[dict[str, Any]]:
    """Start it when its data has changed, told why."""
    if settings.schedule is None or not settings.schedule.on_change:
        return []
    return [
        {
            "type": "event",
            "match": {"prefect.resource.id": resource(settings.dataset.name)},
            "expect": [CHANGED],
            "parameters": {"because": "{{ event.payload.summary }}"},
        }
    ]


def served(settings: Recipe) -> RunnerDeployment:
    """The deployment as ``aigc serve`` runs it; one that was paused on the server stays so.

    Raises ``UserError`` for one of a work pool: Prefect would make of the two one that nobody can run.
    """
    schedule, there = settings.schedule or BY_HAND, deployed(settings.name)
    if there is not None and there.work_pool_name is not None:
        mend = f"start: aigc work; or, to serve it, first: prefect deployment delete {retrain.name}/{settings.name}"
        raise UserError(f"{settings.name} is deployed for the work pool {there.work_pool_name!r}; {mend}")
    return RunnerDeployment.from_flow(
        retrain,
        name=settings.name,
        parameters={"recipe": settings.name},
        schedules=[kept(one) for one in schedules(schedule)],
        triggers=[DeploymentEventTrigger.model_validate(one) for one in triggers(settings)],
        paused=there is not None and there.paused,
        tags=["aigc"],
    )


def deployed(recipe: str) -> DeploymentResponse | None:
    """The recipe's deployment on the server."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment_by_name(f"{retrain.name}/{recipe}")
        except ObjectNotFound:
            return None


def entry(settings: Recipe) -> dict[str, Any]:
    """The deployment as ``prefect.yaml`` has it. Over several machines Prefect itself keeps starts from overlapping."""
    schedule = settings.schedule or BY_HAND
    return {
        "name": settings.name,
        "entrypoint": ENTRYPOINT,
        "parameters": {"recipe": settings.name},
        "schedules": schedules(schedule),
        "triggers": triggers(settings),
        "concurrency_limit": {"limit": 1, "collision_strategy": STRATEGIES[schedule.overlap]},
        "tags": ["aigc"],
        "work_pool": {"name": POOL},
    }


def write() -> list[str]:
    """Bring ``prefect.yaml`` up to date with ``params.yaml``; returns the names of its retrainings.

    What else the file says stays, also what was added to a retraining there: its work pool, job variables and so on.
    Raises ``UserError``.
    """
    refuse_odd(recipes.content_of(FILE, dated=True))
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(FILE.read_text(encoding="utf-8"))
    listed = content.get("deployments") or []
    known = {one["name"]: one for one in listed if one.get("entrypoint") == ENTRYPOINT}
    names = []
    for settings in recipes.usable():
        if isinstance(settings, UserError):
            raise settings
        names.append(settings.name)
        fresh = entry(settings)
        if settings.name not in known:
            listed.append(fresh)
            continue
        for key, value in fresh.items():
            if key != "work_pool" and known[settings.name].get(key) != value:
                known[settings.name][key] = value
    content["deployments"] = [one for one in listed if one.get("entrypoint") != ENTRYPOINT or one["name"] in names]
    text = io.StringIO()
    yaml.dump(content, text)
    layout.replace(FILE, text.getvalue())
    return names


def refuse_odd(content: Any) -> None:
    """Raises ``UserError`` where ``prefect.yaml`` is not made as Prefect reads it."""
    if not isinstance(content, dict):
        raise UserError(f"{FILE}: expected `deployments:` and more, got {content!r}; restore it: git checkout {FILE}")
    listed = content.get("deployments") or []
    if not isinstance(listed, list):
        raise UserError(f"{FILE}: deployments: expected a list, got {listed!r}; begin every entry with `- name:`")
    for number, one in enumerate(listed):
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise UserError(f"{FILE}: deployments.{number}: expected an entry with a `name:`, got {one!r}; add it")
    refuse_twice([(f"deployments.{at}", one) for at, one in enumerate(listed) if one.get("entrypoint") == ENTRYPOINT])


def refuse_twice(retrainings: list[tuple[str, dict[str, Any]]]) -> None:
    """Raises ``UserError`` unless each is its recipe's only one and named after it: the server has one by a name."""
    places: dict[str, str] = {}
    for place, one in retrainings:
        name, parameters = one["name"], one.get("parameters")
        recipe = parameters.get("recipe", name) if isinstance(parameters, dict) else name
        if recipe != name:
            mend = "a retraining is named after its recipe: rename or remove it"
            raise UserError(f"{FILE}: {place}.name: {name!r} retrains {recipe!r}; {mend}")
        if name in places:
            raise UserError(f"{FILE}: {place}: {name} is retrained by {places[name]} already; keep one of the two")
        places[name] = place
