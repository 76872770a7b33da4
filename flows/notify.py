"""Word of a retraining, to those whom its recipe names (``schedule: notify:``): the decision, figures and links.

An address holds secrets. It lies in a block on Prefect's server, which keeps it encrypted, or in the environment; what
a messenger says when it fails may quote it, so that is not passed on.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread

from prefect import State, get_run_logger
from prefect.blocks.core import Block
from prefect.utilities.urls import url_for

from aigc_tasks import layout, tracking
from aigc_tasks.card import read_card
from aigc_tasks.promote import promoting
from aigc_tasks.recipe import Recipe

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
            in_time(send, whom, f"{settings.name}: {state.name}", "\n".join(lines))
        except Exception as error:
            why = str(error) if isinstance(error, Unreachable) else f"it could not be sent ({type(error).__name__})"
            warn("%s was not told: %s", whom, why)


class Unreachable(Exception):
    """Why a message was not sent, in words that hold no secret."""


def in_time(send: Callable[[str, str, str], None], *message: str) -> None:
    """Send it, or give up after ``PATIENCE``: nobody who is told may hold up the retraining that tells."""
    sent: Future[None] = Future()

    def work() -> None:
        try:
            send(*message)
            sent.set_result(None)
        except Exception as error:
            sent.set_exception(error)

    Thread(target=copy_context().run, args=[work], name="notify", daemon=True).start()
    try:
        sent.result(PATIENCE)
    except TimeoutError:
        raise Unreachable(f"it could not be sent within {PATIENCE:.0f} s") from None


def by_environment(variable: str, subject: str, body: str) -> None:
    """To the address of Apprise that an environment variable holds: mailto://, slack://, json:// and many more."""
    from apprise import Apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    address = os.environ.get(variable.removeprefix(VARIABLE))
    if not address:
        raise Unreachable("the variable is not set where the retraining runs; export it there")
    messenger = Apprise()
    if not messenger.add(address):
        raise Unreachable("its value is no address of Apprise, such as mailto://user:password@host")
    if not messenger.notify(body=body, title=subject):
        raise Unreachable("it could not be sent; try the address with the command `apprise`")


def by_block(name: str, subject: str, body: str) -> None:
    """Through a notification block of Prefect's server, ``TYPE/NAME``."""
    import prefect.blocks.notifications  # noqa: F401  (makes its types known to Block.load)

    try:
        block = Block.load(name)
    except ValueError:
        raise Unreachable("the server has no such block; make it on Prefect's page, Blocks") from None
    if not hasattr(block, "notify"):
        raise Unreachable("this kind of block cannot notify; take Slack Webhook, Custom Webhook, Sendgrid Email …")
    block.notify(body, subject)


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
