"""What ends a run from outside: Cancel in Prefect's UI, or the time limit of the recipe's schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx
from prefect import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

WATCH = 3.0  # seconds between two looks whether someone cancelled the run
DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


class CancelRequested(Exception):
    """Someone pressed Cancel in Prefect's UI."""


class TimeIsUp(Exception):
    """The run has taken as long as it may."""


@contextmanager
def limited(minutes: float | None) -> Iterator[None]:
    """The work in this block must end within so many minutes."""
    token = DEADLINE.set(None if minutes is None else time.monotonic() + 60 * minutes)
    try:
        yield
    finally:
        DEADLINE.reset(token)


def watch() -> Callable[[], None]:
    """A function to call often: raises ``TimeIsUp``, or ``CancelRequested`` when the flow run's state says so.

    While the server is away nobody can press Cancel, and the work goes on.
    """
    looked = time.monotonic()

    def look() -> None:
        nonlocal looked
        deadline = DEADLINE.get()
        if deadline is not None and time.monotonic() > deadline:
            raise TimeIsUp("its time limit is up; the next retraining goes on where it was")
        if flow_run.id is None or time.monotonic() - looked < WATCH:
            return
        cancelled = is_cancelled()
        looked = time.monotonic()
        if cancelled:
            raise CancelRequested

    return look


def is_cancelled() -> bool:
    """Whether someone has cancelled the flow run, as far as its server can be asked."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run.id).state
    except (httpx.HTTPError, ValueError, ObjectNotFound):  # no answer, a proxy's page, a server that begins anew
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())
