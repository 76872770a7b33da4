"""The flow ``pipeline(recipe)``: five tasks, each running its stages of DVC's graph.

Prefect schedules, shows and stops; DVC alone decides what is up to date, so no task is cached by Prefect.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout
from prefect import State, Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from aigc_tasks import graph, layout, lifeline
from aigc_tasks.errors import UserError
from aigc_tasks.graph import StageFailed
from aigc_tasks.recipe import Recipe
from aigc_tasks.recipe import recipe as load
from aigc_tasks.tracking import FLOW_RUN
from flows import publishing, stopping
from flows.promote import DECIDED, compete, ended

DRIVER = Path("/proc/driver/nvidia/version")  # asking torch would cost two seconds
UP_TO_DATE = "UpToDate"


class OneLine(logging.Filter):
    """Keeps tracebacks out of the logs for errors that already say in one line what to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, StageFailed | UserError | stopping.TimeIsUp):
            record.exc_info = None
            record.msg, record.args = f"Failed: {error}", ()
        return True


for name in ("prefect.task_runs", "prefect.flow_runs", "prefect.task_engine", "prefect.flow_engine"):
    logging.getLogger(name).addFilter(OneLine())


@flow(name="pipeline", flow_run_name="{recipe}", validate_parameters=False)
def pipeline(recipe: str) -> State:
    """Bring one recipe up to date: acquire → clean → train → postprocess → evaluate, and promote if it has a product.

    Ends Completed, named Promoted or Refused if the gate decided now, UpToDate if nothing had to run; Failed with one
    line that says what to mend; or Cancelled.
    """
    layout.enter_project()
    try:
        with only_one_here(recipe):
            settings = load(recipe)  # as it is now: it may have waited long
            return promoted(settings, bring_up_to_date(settings, graph.STEPS))
    except stopping.CancelRequested:  # the tasks end by it themselves
        return Cancelled(message="cancelled while it waited")


def bring_up_to_date(settings: Recipe, steps: Iterable[str]) -> State:
    """Run these steps of a recipe one after the other, from the first that DVC finds stale; returns how it ended."""
    stages = graph.stages(settings.name, settings.dataset.name)
    targets = {step: stages[step] for step in steps}
    why = graph.stale([target for some in targets.values() for target in some])
    upstream_stale = False
    for step, some in targets.items():
        reasons = [f"{target}: {why[target]}" for target in some if target in why]
        upstream_stale = upstream_stale or bool(reasons)
        state = STEPS[step](settings, some if upstream_stale else [], reasons, return_state=True)
        if not state.is_completed():
            return ended(state)
    return Completed(name="Completed" if why else UP_TO_DATE, message=f"{settings.name} is up to date")


def promoted(settings: Recipe, state: State) -> State:
    """What follows a recipe's being up to date: artifacts, and the gate of its product; the state that both end in.

    It is named after the gate's decision, if one fell now.
    """
    if not state.is_completed():
        return state
    publishing.quality(settings.name, "up to date: nothing had to run" if state.name == UP_TO_DATE else "measured now")
    publishing.data(settings.dataset.name)
    if settings.product is None:
        return state
    last = compete(settings.name, return_state=True)
    if not last.is_completed():
        return ended(last)
    name = last.name if last.name in DECIDED else state.name
    return Completed(name=name, message=f"{state.message}; {last.message}")


def make_task(step: str, **options: Any) -> Task[..., State]:
    @task(name=step, task_run_name=step, cache_policy=NO_CACHE, persist_result=False, **options)
    def run(settings: Recipe, targets: list[str], reasons: list[str], force: bool = False) -> State:
        """Run the step's stages, unless DVC has already said that they are up to date (no targets)."""
        if not targets:
            return Completed(name="Skipped", message="up to date")
        logger = get_run_logger()
        for reason in reasons:
            logger.info("stale: %s", reason)
        extra = {FLOW_RUN: str(flow_run.id)} if flow_run.id else {}
        try:
            with one_on_gpu(settings) if step == "train" else free(), bar() as show:
                log = logger.info if show is None else beside_the_bar(logger.info)
                outcome = graph.run(targets, log, show, extra, stopping.watch(), force)
        except stopping.CancelRequested:
            return Cancelled(message="cancelled; run again to go on from the last checkpoint")
        return Completed(name=outcome.capitalize(), message="; ".join(reasons) or "a step before it ran")

    return run


def another_try_may_help(task: Any, run: Any, state: State) -> bool:
    """Unless the stage itself said what the user must mend, or the time is up."""
    error = state.result(raise_on_failure=False)
    return not ((isinstance(error, StageFailed) and error.mendable) or isinstance(error, UserError | stopping.TimeIsUp))


STEPS = {
    "acquire": make_task("acquire", retries=2, retry_delay_seconds=[5, 30], retry_condition_fn=another_try_may_help),
    **{step: make_task(step) for step in graph.STEPS[1:]},
}


@contextmanager
def only_one_here(recipe: str) -> Iterator[None]:
    """One run at a time in a working tree: wait for the one before, and say for whom. Cancel ends the wait."""
    look = stopping.watch()
    lock, note = FileLock(layout.LOCAL / "workspace.lock"), layout.LOCAL / "workspace"
    layout.LOCAL.mkdir(exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        get_run_logger().info("waiting for %s, which is working in this folder", note.read_text())
        lifeline.acquire(lock, look)
    try:
        layout.replace(note, f"{recipe} (process {os.getpid()})")
        if holders := graph.busy():
            get_run_logger().info("waiting for %s, at work in this folder", ", ".join(holders))
        while graph.busy():
            look()
            time.sleep(lifeline.PULSE)
        yield
    finally:
        lock.release()


@contextmanager
def free() -> Iterator[None]:
    yield


@contextmanager
def one_on_gpu(settings: Recipe) -> Iterator[None]:
    """Have the GPU for this training alone; wait while another has it. Nothing on a CPU.

    Of all checkouts of a user on this machine, by a lock that ends with the process that holds it, however that ends: a
    slot of Prefect's would be taken for good by one whose server was killed. Cancel and the time limit end the wait.
    """
    if settings.train.device == "cpu" or not DRIVER.exists():
        yield
        return
    seen = quote(os.environ.get("CUDA_VISIBLE_DEVICES", "all"), safe="")
    lock = FileLock(Path(tempfile.gettempdir(), f"aigc-gpu-{os.getuid()}-{seen}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        get_run_logger().info("waiting for the training that is at work on the GPU")
    lifeline.acquire(lock, stopping.watch())
    try:
        yield
    finally:
        lock.release()


@contextmanager
def bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """A progress bar where someone watches on a terminal, else None."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: list[tqdm[Any]] = []  # one, made when there is something to show

        def show(done: int, total: int, text: str) -> None:
            if not bars:
                new: tqdm[Any] = tqdm(leave=False, dynamic_ncols=True)
                bars.append(stack.enter_context(new))
            bars[0].total, (bars[0].desc, _, note) = total, text.partition("  ")
            bars[0].set_postfix_str(note, refresh=False)
            bars[0].update(done - bars[0].n)

        yield show


def beside_the_bar(log: Callable[[str], None]) -> Callable[[str], None]:
    """``log``, with the bar taken off the terminal's last line while it writes."""
    from tqdm import tqdm

    def line(text: str) -> None:
        with tqdm.external_write_mode():
            log(text)

    return line
