"""``aigc status``: what is due, what came out last, what is live, and what is stuck and how to mend it.

However many runs there were, one page holds the newest of all recipes and another the next starts; of a recipe that is
on neither the server is asked by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aigc_tasks import recipe as recipes
from aigc_tasks import retraining, servers
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import suggestion
from aigc_tasks.promote import registry
from aigc_tasks.promote.overview import age, ago
from aigc_tasks.promote.registry import Event
from aigc_tasks.recipe import Recipe
from aigc_tasks.schedule import BY_HAND

FLOW = "retrain"
PAGE = 200  # runs that one request brings, the most that Prefect gives
PATIENCE = 60.0  # seconds after which a start is overdue
LONGEST = 160  # characters of a message
SERVE = "start: aigc serve"
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")  # types of states of Prefect's in which a run has ended


@dataclass(frozen=True)
class FlowRun:
    """A run of the flow, as Prefect's server describes it."""

    deployment: str
    state: str  # its name
    message: str
    is_final: bool
    began: datetime | None
    due: datetime
    seconds: float

    @classmethod
    def of(cls, told: dict[str, Any]) -> FlowRun:
        state, began = told["state"] or {}, told["start_time"]
        return cls(
            deployment=told["deployment_id"] or "",
            state=state.get("name", ""),
            message=state.get("message") or "",
            is_final=state.get("type") in FINAL,
            began=datetime.fromisoformat(began) if began else None,
            due=datetime.fromisoformat(told["expected_start_time"]),
            seconds=told["total_run_time"],
        )

    @property
    def gave_way(self) -> bool:
        """Whether it was cancelled before it began, as the run before it was still at work."""
        return self.state == "Cancelled" and not self.seconds


@dataclass
class Served:
    """What Prefect's server knows of a recipe's retrainings."""

    paused: bool = False
    schedules: list[str] = field(default_factory=list)
    last: FlowRun | None = None
    next: FlowRun | None = None


def status() -> tuple[str, bool]:
    """The account, and whether nothing is stuck."""
    api = reachable()
    served = on_server(api) if api else {}
    settings, stuck = {}, []
    for name in recipes.names():
        try:
            settings[name] = recipes.recipe(name)
        except UserError as error:
            stuck.append(f"{name} is broken: {str(error).splitlines()[0]}")
    known = registry.ledgers()
    products = {
        name: known[name] for name in known if name in {one.product.name for one in settings.values() if one.product}
    }
    ahead = retraining.ahead()
    lines = [f"Prefect   {api.removesuffix('/api') if api else f'no server runs; {SERVE}'}", ""]
    for name, one in settings.items():
        lines += told(one, served.get(name), products, ahead.get(name))
    lines += ["", *(f"{name}: {what}" for name, what in live(products))]
    stuck += [what for one in settings.values() for what in troubles(one, served.get(one.name), api is not None)]
    stuck += [
        f"{name} is deployed and no recipe of params.yaml: prefect deployment delete {FLOW}/{name}"
        for name in sorted(served.keys() - set(recipes.names()))
    ]
    lines += ["", *(["stuck", *(f"  {what}" for what in stuck)] if stuck else ["nothing is stuck"])]
    return "\n".join(lines), not stuck


def reachable() -> str | None:
    """The address of the Prefect server that is configured, or runs for this checkout, if it answers.

    Raises ``UserError`` if it refuses the login, or is no server of Prefect's.
    """
    url = servers.known_prefect()
    if url is None or not servers.answers(f"{url}/health", 5):
        return None
    servers.refuse_dead(url)
    return url


def on_server(api: str) -> dict[str, Served]:
    """By recipe.

    The answers are taken as they come: Prefect's own classes look all time zones of the machine up for every schedule.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    flow = {"name": {"any_": [FLOW]}}
    found: dict[str, Served] = {}
    names: dict[str, str] = {}
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:

        def ask(what: Any, **wanted: Any) -> list[dict[str, Any]]:
            answer: list[dict[str, Any]] = client.request("POST", what, json={"flows": flow, **wanted}).json()
            return answer

        offset = 0
        while page := ask("/deployments/filter", limit=PAGE, offset=offset):
            offset += len(page)
            for one in page:
                schedules = [written(schedule["schedule"]) for schedule in one["schedules"] if schedule["active"]]
                found[one["id"]], names[one["id"]] = Served(one["paused"], schedules), one["name"]
        for attribute, sort, wanted in (
            ("last", "START_TIME_DESC", {"start_time": {"is_null_": False}}),
            ("next", "EXPECTED_START_TIME_ASC", {"state": {"type": {"any_": ["SCHEDULED"]}}}),
        ):
            missing = [None, *found]  # first the page of all, then those of which it has none, one by one
            for only in missing:
                if only is not None and getattr(found[only], attribute) is not None:
                    continue
                chosen = wanted if only is None else {**wanted, "deployment_id": {"any_": [only]}}
                runs = ask("/flow_runs/filter", flow_runs=chosen, sort=sort, limit=PAGE)
                for run in map(FlowRun.of, runs):
                    served = found.get(run.deployment)
                    if served is not None and getattr(served, attribute) is None and not run.gave_way:
                        setattr(served, attribute, run)
                if only is None and len(runs) < PAGE:
                    break  # these were all that there are
    return {names[id]: one for id, one in found.items()}


def written(schedule: dict[str, Any]) -> str:
    """A schedule of Prefect's in the words of ``Schedule.in_words``."""
    if "cron" in schedule:
        return f"{schedule['cron']} ({schedule['timezone'] or 'UTC'})"
    return f"every {schedule['interval']:.12g} s" if "interval" in schedule else str(schedule)


def told(settings: Recipe, served: Served | None, products: dict[str, list[Event]], ahead: str | None) -> Iterator[str]:
    """The lines of one recipe."""
    name, schedule = settings.name, settings.schedule
    if schedule is None and not ahead and (served is None or served.last is None):
        yield f"{name}: no schedule"
        return
    yield name
    paused = ", PAUSED" if served is not None and served.paused else ""
    due = f"; next {moment(served.next.due)}" if served and served.next and not paused else ""
    yield f"  schedule   {(schedule or BY_HAND).in_words()}{paused}{due}"
    if retraining.at_work(name):
        note = retraining.note(name)
        yield f"  at work    since {moment(datetime.fromisoformat(note.began))}" if note else "  at work"
    if served is not None and (run := served.last) is not None and run.began is not None:
        took = f", {run.seconds:.0f} s" if run.is_final else ""
        message = run.message.replace("\n", " ")[:LONGEST]
        yield f"  last run   {run.state}, {ago(run.began)}{took}: {message}"
    product = settings.product.name if settings.product else ""
    if product in products and (event := last_decision(products[product], name)) is not None:
        what = f"{product} version {event.version}: {event.kind}, {age(event)}"
        yield f"  decision   {what}: {event.reason[:LONGEST]}"
    if ahead:
        yield f"  branch     {ahead} is ahead: {retraining.merging(ahead)}"


def last_decision(ledger: list[Event], recipe: str) -> Event | None:
    """The last word on a version of the recipe."""
    decided = (event for event in reversed(ledger) if event.kind in ("promote", "refuse", "rollback"))
    return next((event for event in decided if event.recipe == recipe), None)


def live(products: dict[str, list[Event]]) -> Iterator[tuple[str, str]]:
    """Each product's champion and its age."""
    for name, ledger in products.items():
        champion, since = registry.added_up(ledger).champion, registry.crowned(ledger)
        if champion is None or since is None:
            yield name, "no champion"
            continue
        yield name, f"version {champion} is the champion since {age(since).removesuffix(' ago')}"


def troubles(settings: Recipe, served: Served | None, is_up: bool) -> Iterator[str]:
    """What is stuck about a recipe, each with its mend."""
    name = settings.name
    note = retraining.note(name)
    if note is not None and not retraining.at_work(name):
        yield f"{name} was killed while it was retrained (since {note.began}); go on: aigc retrain {name} or aigc serve"
    starts = settings.schedule is not None and bool(settings.schedule.cron or settings.schedule.interval)
    if not is_up:
        if starts:
            yield f"{name} has a schedule that nothing keeps; {SERVE}"
        return
    if settings.schedule is not None and served is None:
        yield f"{name} has a schedule that the server does not know; {SERVE}, or: aigc deploy && prefect deploy --all"
        return
    if served is None:
        return
    wanted = settings.schedule.starts if settings.schedule else []
    if wanted != served.schedules and not served.paused:
        now = ", ".join(served.schedules) or "none"
        yield f"{name}: the server has another schedule ({now}) than params.yaml; {SERVE} again, or deploy again"
    if served.next is not None and not served.paused:
        late = (datetime.now(UTC) - served.next.due).total_seconds()
        if late > PATIENCE and not retraining.at_work(name):
            yield f"{name} should have started {ago(served.next.due)}: nothing serves; {SERVE}"


def moment(when: datetime) -> str:
    """In the time zone of this machine."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def set_paused(recipe: str, paused: bool) -> str:
    """Stop or resume the starts of a recipe's retraining on the server; raises ``UserError``.

    Of events that came while it was paused the last is made up for.
    """
    from prefect import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if recipe not in recipes.names():
        raise UserError(f"params.yaml: recipes: there is no {recipe!r}; {suggestion(recipe, recipes.names())}")
    api = reachable()
    if api is None:
        raise UserError(f"no Prefect server runs, which keeps the schedules; {SERVE}")
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"{FLOW}/{recipe}")
        except ObjectNotFound:
            raise UserError(f"the server has no deployment {FLOW}/{recipe}; {SERVE}") from None
        (client.pause_deployment if paused else client.resume_deployment)(deployment.id)
        if paused:
            return f"{recipe} is paused; go on: aigc resume {recipe}"
        chosen = DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}})
        started = FlowRunFilter.model_validate({"start_time": {"is_null_": False}})
        last = client.read_flow_runs(
            deployment_filter=chosen, flow_run_filter=started, sort=FlowRunSort.START_TIME_DESC, limit=1
        )
        if last and last[0].state is not None and last[0].state.name == retraining.HELD:
            client.create_flow_run_from_deployment(deployment.id, parameters=last[0].parameters)
            return f"{recipe} is retrained again, and now, because of what was held: {last[0].parameters['because']}"
    return f"{recipe} is retrained by its schedule again"
