"""The flow ``promote(recipe)``: register what the recipe has made, and let the gate of its product decide."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled, Completed, Failed

from aigc_tasks import layout, lifeline, tracking
from aigc_tasks.errors import UserError
from aigc_tasks.promote import promoting
from aigc_tasks.promote.register import recorded
from aigc_tasks.recipe import recipe as load
from flows import publishing, stopping

TIMED_OUT = "TimedOut"
PROMOTED, REFUSED = DECIDED = ("Promoted", "Refused")


@flow(name="promote", flow_run_name="{recipe}", validate_parameters=False)
def promote(recipe: str) -> State:
    """Ends Completed, named Promoted, Refused, UpToDate (decided before) or Skipped; its message says why."""
    layout.enter_project()
    recorded(load(recipe))  # raises an error of one line if it is not up to date, which `pipeline` sees to
    state = compete(recipe, return_state=True)
    if not state.is_completed():
        return ended(state)
    return Completed(name=state.name, message=state.message)  # returned as it is, Prefect would name it anew


def ended(state: State) -> State:
    """The flow's end as its task's: returned as it is, Prefect would say that "1/1 states failed"."""
    error = state.result(raise_on_failure=False)
    message = str(error) if isinstance(error, Exception) else state.message
    if state.is_cancelled():
        return Cancelled(message=message)
    name = TIMED_OUT if isinstance(error, stopping.TimeIsUp) else "Failed"
    return Failed(name=name, message=message, data=error)


@task(name="promote", task_run_name="promote", cache_policy=NO_CACHE, persist_result=False)
def compete(recipe: str) -> State:
    """Ends as the gate decided. It decides in a process of its own, as a stage: torch is slow to import."""
    outcome = promoting.known(recipe)
    if outcome is None:
        if (why := promoting.untracked(recipe)) is not None:  # as in a clone after `dvc pull`
            return Completed(name="Skipped", message=f"not promoted: {why}")
        try:
            decide(recipe)
        except stopping.CancelRequested:
            return Cancelled(message="cancelled; run again, and the gate decides")
        outcome = promoting.known(recipe)
        if outcome is None:
            return Completed(
                message=f"{recipe} was decided about, and its product has changed since; see aigc products"
            )
        publish(recipe, outcome)
        return Completed(name=PROMOTED if outcome.promoted else REFUSED, message=promoting.verdict(outcome))
    return Completed(name="UpToDate", message=promoting.verdict(outcome))


def decide(recipe: str) -> None:
    """``python -m aigc_tasks.promote RECIPE``, its lines in the log; ended if the flow is. Raises ``UserError``."""
    errors: list[str] = []

    def hear(line: str) -> None:
        if line.startswith("error: "):
            errors.append(line.removeprefix("error: "))
        get_run_logger().info("%s", line)

    code = lifeline.follow("aigc_tasks.promote", recipe, env=os.environ, line=hear, pulse=stopping.watch())
    if code:
        raise UserError(errors[-1] if errors else f"promoting {recipe} ended with code {code}; its log says why")


def publish(recipe: str, outcome: promoting.Outcome) -> None:
    version = outcome.version
    with tempfile.TemporaryDirectory() as scratch:
        client = tracking.open_client()
        picture = client.download_artifacts(str(version.run_id), f"gate/version-{version.version}.png", scratch)
        table = outcome.decision.table()
        publishing.decision(recipe, outcome.product, promoting.verdict(outcome), table, Path(picture))
