"""The servers that belong to this checkout: MLflow's and Prefect's UI, and a temporary Prefect API for one run.

All of them listen on 127.0.0.1 and end with the process that started them, also if that one is killed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from aigc_tasks import layout, lifeline, tracking
from aigc_tasks.errors import UserError

HOST = "127.0.0.1"
PATIENCE = 120.0  # seconds a server may take to answer; the first start creates its database
DRAIN = 10.0  # seconds the last events get to reach the server
NOTE = layout.LOCAL / "prefect.json"  # where `aigc ui` says which Prefect server it runs
LOG = layout.LOCAL / "servers.log"


def free_port(wanted: int, besides: int | None = None) -> int:
    """``wanted`` if it is free, else the next one that is (any for 0), but not ``besides``; ``UserError`` after 100."""
    for port in range(wanted, min(wanted + 100, 65536)):
        if port == besides:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError(f"ports {wanted} to {wanted + 99} are all taken; name another: aigc ui --help")


def answers(url: str, timeout: float = 2.0) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310 (always HOST)
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


@contextmanager
def serving(
    module: str, *arguments: str, url: str, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A server in a child process, from its first answer at ``url`` to the end of the block."""
    LOG.parent.mkdir(exist_ok=True)
    with open(LOG, "ab") as log:
        child = lifeline.spawn(module, *arguments, env={**os.environ, **(env or {})}, output=log.fileno())
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(url):
            if child.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"{module} does not start; the reason is at the end of {LOG}")
            time.sleep(0.1)
        yield child
    finally:
        lifeline.stop(child)


@contextmanager
def prefect_server() -> Iterator[None]:
    """Let Prefect find a server: the user's, the one of ``aigc ui``, or a temporary one for this block.

    Prefect's own temporary server is not used: it outlives a flow that is killed. Raises ``UserError``.
    """
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    if named := get_current_settings().api.url:
        refuse_dead(str(named))
        yield
        return
    with ExitStack() as stack:
        url = running_prefect()
        if url is None:
            port = free_port(0)
            url = f"http://{HOST}:{port}/api"
            print("starting a temporary Prefect server (`aigc ui`, left running, spares these seconds)", flush=True)
            stack.enter_context(prefect(port, "--no-ui", "--no-scheduler", "--no-late-runs"))
        stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
        yield
        EventsWorker.drain_all(timeout=DRAIN)  # task runs are recorded from events


@contextmanager
def prefect(port: int, *options: str) -> Iterator[None]:
    """Prefect's server on ``port``, with the user's Prefect settings and database."""
    arguments = ("server", "start", "--host", HOST, "--port", str(port), *options)
    api = f"http://{HOST}:{port}/api"
    told = {"PREFECT_UI_API_URL", "PREFECT_SERVER_UI_API_URL"} & os.environ.keys()  # behind a proxy, say
    env = {} if told else {"PREFECT_SERVER_UI_API_URL": api}  # without it its pages ask port 4200
    with serving("prefect", *arguments, url=f"{api}/health", env=env):
        yield


@contextmanager
def mlflow(port: int) -> Iterator[None]:
    """MLflow's UI on ``port``, over the store of this checkout."""
    tracking.open_client()  # creates the store, or mends it after a move
    arguments = ("ui", "--host", HOST, "--port", str(port), "--workers", "1")
    store = ("--backend-store-uri", tracking.tracking_uri())
    with serving("mlflow", *arguments, *store, url=f"http://{HOST}:{port}/health"):
        yield


@contextmanager
def lasting_prefect(port: int) -> Iterator[str]:
    """The address of a Prefect API: the user's, one that runs for this checkout, or one started here, found by others.

    ``port`` is wanted for one that is started; the next free one is taken. Raises ``UserError``.
    """
    url = known_prefect()
    if url is not None:
        refuse_dead(url)
        yield url
        return
    free = free_port(port)
    url = f"http://{HOST}:{free}/api"
    with prefect(free):
        layout.replace(NOTE, json.dumps({"api": url}))
        try:
            yield url
        finally:
            NOTE.unlink(missing_ok=True)


def refuse_dead(url: str) -> None:
    """Raises ``UserError`` if no Prefect API answers there, or refuses the login; one that is busy may answer later."""
    import httpx
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    told = temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0})
    try:
        with told, get_client(sync_client=True) as client:
            client.read_flows(limit=1)  # of its health it tells everybody
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            mend = "correct PREFECT_API_KEY or PREFECT_API_AUTH_STRING"
            raise UserError(f"{url}: refuses the login ({status}); {mend}") from None
        if status in (None, 404):
            said = f"no Prefect server answers there ({status or type(error).__name__})"
            raise UserError(f"{url}: {said}; start it, or correct PREFECT_API_URL") from None


def serve_uis(mlflow_port: int, prefect_port: int) -> None:
    """Both UIs until Ctrl-C or SIGTERM; says where they are and which ports were taken."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.default_int_handler)
    with ExitStack() as stack:
        first = free_port(mlflow_port)
        ports = first, free_port(prefect_port, besides=first)
        running = known_prefect()
        for name, wanted, port in zip(("MLflow", "Prefect"), (mlflow_port, prefect_port), ports, strict=True):
            taken = f"   (port {wanted} is taken)" if port != wanted else ""
            there = f"{running.removesuffix('/api')}   (it runs already)" if running and name == "Prefect" else ""
            print(f"{name:8} {there or f'http://{HOST}:{port}{taken}'}", flush=True)
        stack.enter_context(lasting_prefect(ports[1]))
        stack.enter_context(mlflow(ports[0]))
        print("ready; Ctrl-C ends both", flush=True)
        while True:
            time.sleep(1)


def known_prefect() -> str | None:
    """The API of the Prefect server that the user has named, or that runs for this checkout; None if there is none."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    return str(url) if url else running_prefect()


def running_prefect() -> str | None:
    """The API of the Prefect server of this checkout (``aigc ui``, ``aigc serve``), None if there is none."""
    try:
        url: str = json.loads(NOTE.read_text())["api"]
    except (OSError, ValueError, KeyError):
        return None
    return url if answers(f"{url}/health") else None
