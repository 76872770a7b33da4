"""Real servers on 127.0.0.1: PostgreSQL, an S3-compatible store, MLflow and Prefect on them, and any other program."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import TIMEOUT

from aigc_tasks import servers

NEEDED = "AIGC_REAL_SERVERS"  # set where a server that is missing is a failure, as on CI
KEYS = {
    "AWS_ACCESS_KEY_ID": "pipeline",
    "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex,
    "AWS_DEFAULT_REGION": "us-east-1",
}
BUCKETS = ("artifacts", "dvc", "pictures")


@dataclass(frozen=True)
class Servers:
    """Where they listen, and what a user's shell is told of them."""

    mlflow: str
    prefect: str
    env: dict[str, str]

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Put what lies in the folder into a bucket."""
        import boto3

        keys = dict(zip(("aws_access_key_id", "aws_secret_access_key", "region_name"), KEYS.values(), strict=True))
        client = boto3.client("s3", endpoint_url=self.env["AWS_ENDPOINT_URL"], **keys)
        for path in folder.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")


def postgres_programs() -> Path:
    """The folder of ``initdb`` and ``postgres``; skips the test if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    path = str(found[-1]) if found else shutil.which("initdb")
    if path is None:
        why = "PostgreSQL is not installed: apt-get install postgresql"
        (pytest.fail if NEEDED in os.environ else pytest.skip)(why)
    return Path(path).parent


def until(ready: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def listening(log: Path, program: str, *options: str, **env: str) -> Iterator[str]:
    """A server from this environment on a free port, from when it answers; ``options`` end with that for the host."""
    port = servers.free_port(0)
    command = [str(Path(sys.executable).with_name(program)), *options, "127.0.0.1", "--port", str(port)]
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True, env={**os.environ, **env})
    try:
        until(lambda: answers(port), process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def postgres(*databases: str) -> Iterator[str]:
    """A PostgreSQL server with these databases; its address without one."""
    programs, port = postgres_programs(), servers.free_port(0)
    with tempfile.TemporaryDirectory(prefix="postgres-") as scratch:
        place = Path(scratch)
        as_user: list[str] = []
        if os.geteuid() == 0:  # as which it refuses to run
            shutil.chown(place, "postgres")
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        cluster, log = place / "cluster", place / "log"
        setup = [*as_user, str(programs / "initdb"), "-D", str(cluster), "-U", "aigc", "-A", "trust", "-E", "UTF8"]
        subprocess.run([*setup, "--no-sync", "--locale=C"], check=True, capture_output=True, cwd=place)
        listen = ["-c", "listen_addresses=127.0.0.1", "-k", str(place), "-p", str(port), "-c", "fsync=off"]
        with open(log, "w") as output:
            start = [*as_user, str(programs / "postgres"), "-D", str(cluster), *listen]
            process = subprocess.Popen(start, stdout=output, stderr=output, text=True, cwd=place)
        try:
            to = ["-h", "127.0.0.1", "-p", str(port), "-U", "aigc"]
            ready = [str(programs / "pg_isready"), *to]
            until(lambda: subprocess.run(ready, capture_output=True).returncode == 0, process, log)
            for database in databases:
                subprocess.run([str(programs / "createdb"), *to, database], check=True)
            yield f"aigc@127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            process.wait(30)


@contextmanager
def s3(buckets: Path) -> Iterator[str]:
    """An S3-compatible store of a folder, each folder in it a bucket; its address."""
    for name in BUCKETS:
        (buckets / name).mkdir(parents=True)
    port, log = servers.free_port(0), buckets.with_suffix(".log")
    keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
    program = str(Path(sys.executable).with_name("rclone"))
    listen = ["--addr", f"127.0.0.1:{port}", "--auth-key", keys]
    command = [program, "serve", "s3", *listen, str(buckets)]
    with open(log, "w") as output:
        own = {**os.environ, "RCLONE_CONFIG": str(buckets.with_suffix(".conf"))}
        process = subprocess.Popen(command, stdout=output, stderr=output, text=True, env=own)

    try:
        until(lambda: answers(port), process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def mlflow(database: str, env: dict[str, str]) -> Iterator[str]:
    """MLflow on PostgreSQL, which keeps artifacts in the store for its clients."""
    port = servers.free_port(0)
    url = f"http://127.0.0.1:{port}"
    kept = ("--backend-store-uri", f"postgresql://{database}/mlflow", "--artifacts-destination", "s3://artifacts")
    listen = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    with servers.serving("mlflow", "server", *listen, *kept, url=f"{url}/health", env=env):
        yield url


@contextmanager
def all_of_them(place: Path) -> Iterator[Servers]:
    """PostgreSQL, the store, MLflow and Prefect; their logs in ``place``, in which this process works meanwhile."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.chdir(place)
        database = stack.enter_context(postgres("mlflow", "prefect"))
        store = stack.enter_context(s3(place / "buckets"))
        env = {**KEYS, "AWS_ENDPOINT_URL": store}
        tracking = stack.enter_context(mlflow(database, env))
        patch.setenv("PREFECT_HOME", str(place / "prefect"))
        patch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://{database}/prefect")
        port = servers.free_port(0)
        stack.enter_context(servers.prefect(port))
        api = f"http://127.0.0.1:{port}/api"
        told = {"MLFLOW_TRACKING_URI": tracking, "PREFECT_API_URL": api}
        yield Servers(tracking, api, {**env, **told})
