"""``aigc serve``: one process that keeps the schedules of all recipes, with Prefect's server if none is there; and
``aigc work``: this clone as one of the machines that take up what a work pool has to do.

Both are stopped by being killed, and started by going on: a retraining that was at work is put back on its schedule,
and resumes from its checkpoint as the same run. ``serve`` starts Prefect's runner, ``python -m flows.serving``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from prefect import State, get_client
from prefect import serve as run_all
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import FlowRunFilter
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Scheduled

from aigc_tasks import layout, lifeline, retraining, servers
from aigc_tasks import recipe as recipes
from aigc_tasks.errors import UserError
from aigc_tasks.schedule import BY_HAND
from flows import deployments, starts


def serve(port: int) -> None:
    """Until Ctrl-C or SIGTERM. Raises ``UserError``."""
    end_in_order()
    with servers.lasting_prefect(port) as url:
        print(f"Prefect   {url.removesuffix('/api')}", flush=True)
        for settings in recipes.usable():
            if isinstance(settings, UserError):
                print(f"not served: {settings}", flush=True)
        going_on(url, "flows.serving")


def work(pool: str) -> None:
    """Until Ctrl-C or SIGTERM. Raises ``UserError``."""
    end_in_order()
    url = servers.known_prefect()
    if url is None:
        raise UserError("no Prefect server is known, which has the work; name it: export PREFECT_API_URL=…")
    servers.refuse_dead(url)
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:  # Prefect's worker would make one, for which it asks the internet
            mend = f"prefect work-pool create {pool} --type process"
            raise UserError(f"the server has no work pool {pool!r}; make it: {mend}") from None
    print(f"Prefect   {url.removesuffix('/api')}", flush=True)
    going_on(url, "prefect", "worker", "start", "--pool", pool)


def end_in_order() -> None:
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.default_int_handler)


def going_on(url: str, module: str, *arguments: str) -> None:
    """Put back what was killed, and run what takes it up until it is stopped."""
    with temporary_settings({PREFECT_API_URL: url}), ExitStack() as stack:
        for line in go_on():
            print(line, flush=True)
        told = {"PREFECT_API_URL": url, layout.CHECKOUT: str(Path.cwd())}
        runner = lifeline.spawn(module, *arguments, env={**os.environ, **told})
        stack.callback(end, runner.pid)
        while runner.poll() is None:
            time.sleep(0.5)
    raise UserError(f"the runner ended with code {runner.returncode}; what it said is above")


def end(group: int) -> None:
    """Kill the runner and its flow runs; the stages end with them, from their last checkpoint they go on."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def go_on() -> Iterator[str]:
    """Put the retrainings back on the schedule that were killed, and say so; what has ended meanwhile is forgotten.

    One of a command (``aigc retrain``) has no deployment, and no runner would take it up: it is left to the user.
    """
    for note in retraining.unfinished():
        if note.flow_run is None:
            continue
        chosen = FlowRunFilter.model_validate({"id": {"any_": [note.flow_run]}})
        with get_client(sync_client=True) as client:
            found = client.read_flow_runs(flow_run_filter=chosen)
            if not found or found[0].state is None:
                continue  # another server's
            if found[0].state.is_cancelled() or found[0].state.is_completed():
                retraining.forget(note.recipe)
            elif found[0].deployment_id is not None:
                yield put_back(client, found[0], note.recipe)


def put_back(client: SyncPrefectClient, run: FlowRun, recipe: str) -> str:
    """Back on the schedule with it, unless somebody has cancelled it since, or its recipe is gone; says what became."""
    why = None
    try:
        if run.state is not None and run.state.is_cancelling():
            why = "it was cancelled"
        elif recipe not in recipes.names():
            why = "params.yaml has no such recipe any more"
        else:
            recipes.recipe(recipe)
    except UserError as error:
        return f"{recipe} does not go on before this is mended, and this command started again: {error}"
    state: State = Scheduled(message="killed; goes on from its checkpoint")
    if why is not None:
        state = Cancelled(message=f"killed; {why}")
    starts.close_tasks(client, run.id)
    client.set_flow_run_state(run.id, state, force=True)
    if why is None:
        return f"{recipe} goes on: it was at work when it was killed"
    retraining.forget(recipe)
    return f"{recipe} does not go on: {why}"


def main() -> None:
    layout.enter_project()
    served = []
    for settings in recipes.usable():
        if not isinstance(settings, UserError):
            try:
                served.append(deployments.served(settings))
            except UserError as error:
                print(f"not served: {error}", flush=True)
    for deployment in served:
        told = (recipes.recipe(deployment.name).schedule or BY_HAND).in_words()
        print(f"{deployment.name:24} {told}{', paused' if deployment.paused else ''}", flush=True)
    print("ready; Ctrl-C ends it", flush=True)
    run_all(*served, pause_on_shutdown=False, print_starting_message=False)


if __name__ == "__main__":
    main()
