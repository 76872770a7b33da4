"""Word of a retraining, to those whom its recipe names (``schedule: notify:``): the decision, figures and links.

An address holds secrets. It lies in a block on Prefect's server, which keeps it encrypted, or in the environment; what
a messenger says when it fails may quote it, so that is not passed on.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

from prefect import State, get_run_logger
from prefect.blocks.core import Block
from prefect.utilities.urls import url_for

from aigc_tasks import layout, tracking
from aigc_tasks.card import read_card
from aigc_tasks.promote import promoting
from aigc_tasks.recipe import Recipe

if TYPE_CHECKING:
    from apprise import Apprise

FIGURES = ("fid_ratio", "precision", "recall", "density", "coverage", "class_accuracy", "memorised")
PATIENCE = 30.0  # seconds in which a message must be sent; what answers byte by byte has no timeout of its own
VARIABLE = "$"  # begins the name of an environment variable


def tell(settings: Recipe, state: State, own: str | None) -> None:
    """Say how the retraining ended to everyone whom the recipe names; one who cannot be reached is a warning.

    Where it has a result, to be called in its worktree.
    """
    wanted = settings.schedule.notify if settings.schedule else []
    if not wanted:
        return
    warn = get_run_logger().warning
    lines = [state.message or "", ""]
    if state.is_completed():
        try:
            lines += details(settings)
        except Exception as error:  # the result is kept already, and word of it must not undo that
            warn("the figures could not be read (%s): %s", type(error).__name__, error)
    if own:
        lines.append(f"Prefect: {url_for('flow-run', obj_id=own)}")
    for whom in wanted:
        try:
            send = by_environment if whom.startswith(VARIABLE) else by_block
            send(whom, f"{settings.name}: {state.name}", "\n".join(lines))
        except Exception as error:
            why = str(error) if isinstance(error, Unreachable) else f"it could not be sent ({type(error).__name__})"
            warn("%s was not told: %s", whom, why)


class Unreachable(Exception):
    """Why a message was not sent, in words that hold no secret."""


def by_environment(variable: str, subject: str, body: str) -> None:
    """To the addresses of Apprise that an environment variable holds: mailto://, slack://, json:// and many more."""
    from apprise import Apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    address = os.environ.get(variable.removeprefix(VARIABLE))
    if not address:
        raise Unreachable("the variable is not set where the retraining runs; export it there")
    messenger = Apprise()
    if not messenger.add(address):
        raise Unreachable("its value is no address of Apprise, such as mailto://user:password@host")
    sent = [in_time(partial(alone(service).notify, body=body, title=subject)) for service in messenger]
    if not all(sent):
        raise Unreachable(f"it could not be sent within {PATIENCE:.0f} s; try the address with the command `apprise`")


def alone(service: Any) -> Apprise:
    """A messenger to one of several: to all together it speaks by threads, which the process waits for at its end."""
    from apprise import Apprise

    messenger = Apprise()
    messenger.add(service)
    return messenger


def by_block(name: str, subject: str, body: str) -> None:
    """Through a notification block of Prefect's server, ``TYPE/NAME``."""
    import prefect.blocks.notifications  # noqa: F401  (makes its types known to Block.load)

    try:
        block = Block.load(name)
    except ValueError:
        raise Unreachable("the server has no such block; make it on Prefect's page, Blocks") from None
    if not hasattr(block, "notify"):
        raise Unreachable("this kind of block cannot notify; take Slack Webhook, Custom Webhook, Sendgrid Email …")
    if not in_time(partial(block.notify, body, subject)):
        raise Unreachable(f"it could not be sent within {PATIENCE:.0f} s")


def in_time(send: Callable[[], object]) -> bool:
    """Whether it was sent within ``PATIENCE``: nobody who is told may hold up the retraining that tells."""
    sent: Future[object] = Future()

    def work() -> None:
        try:
            sent.set_result(send())
        except Exception as error:
            sent.set_exception(error)

    Thread(target=copy_context().run, args=[work], name="notify", daemon=True).start()
    done, _ = wait([sent], PATIENCE)
    return bool(done) and sent.result() is not False


def details(settings: Recipe) -> list[str]:
    """What the gate decided and why, the figures, and where MLflow shows the run; in the retraining's worktree."""
    figures = json.loads((layout.report(settings.name) / "quality.json").read_text())
    lines = [f"{name:16} {figures[name]:.4g}" for name in FIGURES if name in figures]
    outcome = None if settings.product is None else promoting.known(settings.name)
    if outcome is not None:
        lines = [promoting.told(outcome), "", *lines]
    client = tracking.open_client()
    run = tracking.find_run(client, read_card(layout.model(settings.name)).fingerprint)
    if run is not None:
        page = f"{tracking.tracking_uri()}/#/experiments/{client.get_run(run).info.experiment_id}/runs/"
        lines += ["", f"MLflow: {page if page.startswith('http') else 'run '}{run}"]
    return lines
