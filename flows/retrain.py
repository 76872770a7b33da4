"""The flow ``retrain(recipe)``: acquire again; if that changed anything, train, let the gate decide, keep the result.

It works in a worktree of git (``aigc_tasks.retraining``), never in the user's checkout: several run side by side. DVC
does not watch a source, so ``pipeline`` does not see it change: schedule this flow where data keeps coming.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from threading import Thread

from prefect import State, flow, get_run_logger
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from aigc_tasks import graph, layout, lifeline, retraining, stage, tracking
from aigc_tasks.card import read_card
from aigc_tasks.promote import promoting
from aigc_tasks.recipe import Recipe
from aigc_tasks.recipe import recipe as load
from aigc_tasks.schedule import BY_HAND, Schedule
from flows import notify, publishing, starts, stopping
from flows.drift import DRIFTED, drift
from flows.pipeline import STEPS, UP_TO_DATE, another_try_may_help, bring_up_to_date, promoted
from flows.promote import DECIDED, TIMED_OUT, ended

MISSED, SKIPPED = "Missed", "Skipped"


@flow(name="retrain", flow_run_name="{recipe}", validate_parameters=False)
def retrain(recipe: str, because: str = "") -> State:
    """Take in what the source has now, say how it compares with what the model was trained on, train if it changed.

    Ends Completed, named UpToDate (nothing has changed), Promoted, Refused or Drifted; Missed or Skipped if it had
    to make way for another start, Held if an event started it while the recipe is paused; Failed, named TimedOut if
    its time was up; or Cancelled. ``because`` says what started it.
    """
    layout.enter_project()
    lifeline.end_with_runner()
    settings = load(recipe)
    schedule = settings.schedule or BY_HAND
    own, log = str(flow_run.id) if flow_run.id else None, get_run_logger().info
    before = retraining.note(recipe)
    is_new = before is None or before.flow_run != own
    if is_new and (later := starts.overtaken()):
        return Completed(name=MISSED, message=f"missed; the start that was due {later} does its work")
    if because:
        log("started because of: %s", because)

    def is_held() -> bool:
        return is_new and bool(because) and starts.is_paused()

    held: State = Completed(name=retraining.HELD, message=f"{recipe} is paused; go on: aigc resume {recipe}")
    if is_held():
        return held
    wait = schedule.overlap == "queue" or bool(because) or not starts.is_scheduled()
    try:
        with (
            stopping.limited(schedule.time_limit),
            retraining.turn(recipe, own, wait, log, stopping.watch()) as (other, left),
        ):
            if other is not None:
                return Completed(name=SKIPPED, message=other)
            if left is None and is_held():  # meanwhile; what was killed is gone on with all the same
                return held
            if left is not None and left.flow_run not in (None, own):
                starts.close(left)
            return concluded(settings, because, own)
    except stopping.CancelRequested:
        return Cancelled(message="cancelled while it waited")
    except stopping.TimeIsUp as error:
        return failed(settings, error, own)


def concluded(settings: Recipe, because: str, own: str | None) -> State:
    """Retrain, and say how that ended; an error that nobody expects goes on."""
    try:
        return kept(load(settings.name), because, own)  # as it is now: it may have waited long for its turn
    except stopping.CancelRequested:
        return Cancelled(message="cancelled; what came out is kept here, and the next retraining shares it")
    except TerminationSignal:
        if own and stopping.is_cancelled():  # the runner saw it first; nobody is to go on with it
            retraining.forget(settings.name)
        raise
    except Exception as error:
        return failed(settings, error, own)


def failed(settings: Recipe, error: Exception, own: str | None) -> State:
    """The state that a retraining ends in by an error, once it was told of; raises one that nobody expects."""
    is_late = isinstance(error, stopping.TimeIsUp)
    known = str(error) if is_late else stage.explain(error)
    why = known or f"it ended by an error ({type(error).__name__}); its log says which"
    state: State = Failed(name=TIMED_OUT if is_late else "Failed", message=why)
    tell(settings, state, own)
    if known:
        return state
    raise error


def kept(settings: Recipe, because: str, own: str | None) -> State:
    """Retrain in the worktree, and keep what came out. Raises ``UserError``."""
    log = get_run_logger().info
    with retraining.workplace(settings, stopping.watch()) as work:
        state = tried(settings, settings.schedule or BY_HAND)
        news = kept_back(settings.name, state) if state.name == UP_TO_DATE else state
        if state.is_completed():
            if news is not None:
                layout.replace(retraining.untold(settings.name), json.dumps([news.name, news.message]))
            commit = work.keep(lambda: account(settings, state, because, own))
            if commit is not None:
                log("kept on branch %s: %s", retraining.branch(settings.name), commit[:12])
        if news is not None and not state.is_cancelled():
            tell(settings, news, own)
    return state


def kept_back(recipe: str, state: State) -> State | None:
    """What came out of a retraining that was killed before anybody was told of it, if so."""
    try:
        text = retraining.untold(recipe).read_text()
    except FileNotFoundError:
        return None
    if not text:
        return state  # it was killed while the gate decided: what stands now
    name, message = json.loads(text)
    return Completed(name=name, message=message)


def tell(settings: Recipe, state: State, own: str | None) -> None:
    """Notify. What a kill keeps back is told by the next start, some perhaps twice."""
    notify.tell(settings, state, own)
    if state.is_completed():
        retraining.untold(settings.name).unlink(missing_ok=True)


def tried(settings: Recipe, schedule: Schedule) -> State:
    """One attempt, and as many more as the schedule allows while another may help."""
    look, delay = stopping.watch(), schedule.retry_delay
    for left in range(schedule.retries, -1, -1):
        state = attempt(settings)
        if state.is_completed() or state.is_cancelled() or not left or not another_try_may_help(None, None, state):
            return state
        get_run_logger().info("%s; tried again in %.0f s", state.message, delay)
        try:
            pause(delay, look)
        except stopping.CancelRequested:
            return Cancelled(message="cancelled")
        except stopping.TimeIsUp:
            return state
        delay *= 2
    return state


def pause(seconds: float, look: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        look()
        time.sleep(min(1.0, left))


def attempt(settings: Recipe) -> State:
    """Acquire; stop if that changed nothing; else clean, compare, train and let the gate decide."""
    acquired = acquire_again(settings)
    if not acquired.is_completed():
        return ended(acquired)
    why = graph.stale(graph.targets(settings.name, settings.dataset.name))
    if not why:
        decided = None if settings.product is None else promoting.known(settings.name)
        if decided or settings.product is None or promoting.untracked(settings.name) is not None:
            verdict = f"; {promoting.verdict(decided)}" if decided else ""
            return Completed(name=UP_TO_DATE, message=f"nothing has changed: {settings.name} is up to date{verdict}")
    get_run_logger().info(
        "changed: %s", "; ".join(f"{target}: {reason}" for target, reason in why.items()) or "the gate"
    )
    cleaned = bring_up_to_date(settings, ["clean"])
    if not cleaned.is_completed():
        return cleaned
    compared = drift(settings, return_state=True)  # before training, which takes the place of the old model
    if not compared.is_completed():
        return ended(compared)
    before = publishing.grid(settings.name)
    measured = bring_up_to_date(settings, ["train", "postprocess", "evaluate"])
    if measured.is_completed():
        retraining.untold(settings.name).touch()
    state = promoted(settings, measured)
    if not state.is_completed():
        return state
    publishing.samples(settings.name, before)
    name = DRIFTED if compared.name == DRIFTED and state.name not in DECIDED else state.name
    return Completed(name=name, message=f"{compared.message}; {state.message}")


def account(settings: Recipe, state: State, because: str, own: str | None) -> str:
    """The message of the commit that keeps what came out: run, version and decision."""
    recipe = settings.name
    run = tracking.find_run(tracking.open_client(), read_card(layout.model(recipe)).fingerprint)
    outcome = None if settings.product is None else promoting.known(recipe)
    lines = [f"Retrain {recipe}: {(state.name or '').lower()}", "", state.message or "", ""]
    lines += [f"Because: {because}"] if because else []
    lines += [f"MLflow run: {run or 'not in this store'}"]
    lines += [f"Prefect run: {own}"] if own else []
    if outcome is not None:
        lines += [f"Version: {outcome.product} {outcome.version.version}", f"Decision: {promoting.verdict(outcome)}"]
    return "\n".join(lines)


def acquire_again(settings: Recipe) -> State:
    targets = graph.stages(settings.name, settings.dataset.name)["acquire"]
    reasons = [f"{target}: its source may have changed" for target in targets]
    beside = Thread(target=import_ahead)
    beside.start()
    state = STEPS["acquire"](settings, targets, reasons, force=True, return_state=True)
    beside.join()
    return state


def import_ahead() -> None:
    """What is needed once the source was read; till then this process would only wait."""
    import dvc.repo  # noqa: F401
    import mlflow  # noqa: F401
