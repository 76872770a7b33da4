"""The command line, the servers and what is imported where."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from conftest import ROOT, TIMEOUT, Project


@pytest.mark.parametrize("command", [[], ["run"], ["list"], ["add"], ["ui"]])
def test_help_says_what_a_command_does(project: Project, command: list[str]) -> None:
    assert "Usage" in project.check("aigc", *command, "--help")


@pytest.mark.parametrize("command", [["ui", "--mlflow-port"], ["ui", "--prefect-port"], ["serve", "--port"]])
def test_what_is_no_port_is_refused(project: Project, command: list[str]) -> None:
    for port in ("-1", "65536"):
        refused = project.run("aigc", *command, port)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
        assert command[-1] in refused.stderr


@pytest.mark.parametrize(
    "modules",
    [
        "aigc_tasks.cli",
        "aigc_tasks.acquire.__main__",
        "aigc_tasks.clean.cleaning",
        "aigc_tasks.recipe",
        "flows.pipeline",
        "flows.retrain",
    ],
)
def test_light_modules_do_not_import_torch(modules: str) -> None:
    program = f"""
import sys, {modules}
from aigc_tasks import recipe
recipe.recipe("digits-gan")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_work_runs_without_prefect() -> None:
    program = """
import sys
sys.modules["prefect"] = None
from aigc_tasks.evaluate import evaluation
from aigc_tasks.train import training
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_list_before_and_after(project: Project) -> None:
    assert re.search(r"digits-gan +never run", project.check("aigc", "list"))
    assert "mnist-mlpgan" in project.check("aigc", "list")
    project.edit(lambda p: p["recipes"]["digits-gan"]["train"].update(stepz=1))
    assert "broken: params.yaml: recipes.digits-gan.train.stepz" in project.check("aigc", "list")


def test_nobody_alive_loses_a_lock_of_dvcs(project: Project) -> None:
    """A command of ours is no `dvc`; one whose entry another removed while it looked broke down at the end of that."""
    reader = subprocess.Popen([sys.executable, "-c", "input()", "compare"], stdin=subprocess.PIPE)
    file = project.path / ".dvc/tmp/rwlock"
    file.parent.mkdir(exist_ok=True)
    alive, gone = ({"pid": reader.pid, "cmd": f"/bin/{cmd}"} for cmd in ("aigc compare", "dvc repro"))
    file.write_text(json.dumps({"read": {"data/raw": [alive, gone], "data/clean": [gone]}, "write": {}}))
    project.check("aigc", "list")
    assert json.loads(file.read_text())["read"] == {"data/raw": [alive]}
    reader.communicate()


def test_a_reader_that_has_enough_is_no_error(project: Project) -> None:
    listed = project.run("bash", "-c", "set -o pipefail; aigc list | true")
    assert (listed.returncode, listed.stderr) == (0, "")


@pytest.mark.slow
def test_list_says_why_a_recipe_is_stale(done: Project) -> None:
    assert re.search(r"digits-gan +up to date +FID [0-9.]+ × real against real", done.check("aigc", "list"))
    done.edit(lambda p: p["recipes"]["digits-gan"]["postprocess"].update(seed=5))
    assert re.search(
        r"digits-gan +stale .*because postprocess@digits-gan: recipes.digits-gan.postprocess modified",
        done.check("aigc", "list"),
    )


@pytest.mark.slow
def test_list_does_not_call_never_run_what_only_is_not_here(done: Project) -> None:
    """As after a kill in a training of other parameters, and in a clone before `dvc pull`."""
    shutil.rmtree(done.path / "data/models/digits-gan")
    done.edit(lambda p: p["recipes"]["digits-gan"]["train"].update(steps=70))
    said = done.check("aigc", "list")
    assert re.search(r"digits-gan +stale +FID .*because train@digits-gan: .*recipes.digits-gan.train modified", said)
    for place in ("data/raw", "data/clean", ".dvc/cache"):
        shutil.rmtree(done.path / place)
    said = done.check("aigc", "list")
    assert "because acquire@digits: data/raw/digits is not in DVC's cache (dvc pull)" in said


def test_a_file_in_the_way_is_one_clear_line(project: Project) -> None:
    (project.path / "data/raw").write_text("not a folder")
    done = project.run("python", "-m", "aigc_tasks.acquire", "digits")
    assert done.returncode == 1
    assert re.fullmatch(r"error: data/raw.*; .*mov.*\n", done.stderr)


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="as root this needs setpriv (util-linux)")
def test_a_folder_that_cannot_be_written_is_one_clear_line(project: Project) -> None:
    """Root may write anywhere, so root gives up that right first."""
    drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.getuid() == 0 else []
    (project.path / "data").chmod(0o555)
    done = project.run(*drop, "python", "-m", "aigc_tasks.acquire", "digits")
    (project.path / "data").chmod(0o755)
    assert done.returncode == 1
    assert re.fullmatch(r"error: data/raw: Permission denied; make it readable and writable for you, .*\n", done.stderr)


@pytest.mark.slow
def test_the_uis_are_served_on_loopback_and_a_taken_port_is_replaced(done: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ui = done.start("aigc", "ui", "--mlflow-port", str(port), "--prefect-port", str(port))
        assert ui.stdout is not None
        lines = [ui.stdout.readline() for _ in range(3)]
        assert lines[2].startswith("ready"), lines
        urls = [re.search(r"http://127.0.0.1:(\d+)", line) for line in lines[:2]]
        ports = [int(url[1]) for url in urls if url]
        assert len({port, *ports}) == 3
        assert all(f"port {port} is taken" in line for line in lines[:2])
        for url in urls:
            assert url is not None
            with urllib.request.urlopen(url[0], timeout=10) as page:
                assert b"<html" in page.read().lower()
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/ui-settings", timeout=10) as settings:
            assert json.load(settings)["api_url"] == f"http://127.0.0.1:{ports[1]}/api", "its pages ask its own server"
        again = done.run("aigc", "run", "digits-gan")
        assert again.returncode == 0, again.stderr
        ui.send_signal(signal.SIGTERM)
        ui.communicate(timeout=TIMEOUT)
        for each in ports:
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", each)) != 0
        assert not (done.path / ".aigc/prefect.json").exists()


@pytest.mark.slow
def test_a_worker_without_a_server_is_one_clear_line(project: Project) -> None:
    nobody = project.run("aigc", "work")
    assert (nobody.returncode, nobody.stderr.partition(";")[0]) == (
        1,
        "error: no Prefect server is known, which has the work",
    )
    project.env["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    for command in (["work"], ["serve"], ["retrain", "digits-gan"]):
        silent = project.run("aigc", *command)
        assert (silent.returncode, silent.stderr) == (
            1,
            "error: http://127.0.0.1:9/api: no Prefect server answers there (ConnectError); "
            "start it, or correct PREFECT_API_URL\n",
        )


def test_an_mlflow_server_that_is_not_there_is_said_at_once(project: Project) -> None:
    """Its client would try for minutes."""
    project.env["MLFLOW_TRACKING_URI"] = "http://me:word@127.0.0.1:9"
    for command in (["status"], ["products"], ["list"], ["run", "digits-gan"], ["rollback", "x", "--reason", "y"]):
        done = project.run("aigc", *command)
        said = (
            "no MLflow server answers there ([Errno 111] Connection refused); start it, or correct MLFLOW_TRACKING_URI"
        )
        assert (done.returncode, done.stderr) == (1, f"error: http://127.0.0.1:9: {said}\n")


@pytest.mark.slow
def test_a_server_that_refuses_the_login_is_one_clear_line(project: Project) -> None:
    """Prefect's tells everybody of its health, and of the rest nobody without a login."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 401)
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        project.env["PREFECT_API_URL"] = url
        for command in (["status"], ["pause", "digits-gan"], ["retrain", "digits-gan"], ["serve"]):
            done = project.run("aigc", *command)
            why = f"{url}: refuses the login (401); correct PREFECT_API_KEY or PREFECT_API_AUTH_STRING"
            assert (done.returncode, done.stderr) == (1, f"error: {why}\n")
        server.shutdown()


@pytest.mark.slow
def test_a_server_that_goes_away_is_one_clear_line(project: Project) -> None:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, content: bytes = b"") -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            if self.path in ("/api/health", "/api/admin/version"):
                self.answer(200, b'"3"')
            elif self.path.startswith("/api/csrf-token"):  # it has none
                self.answer(422)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/flows/filter":
                self.answer(200, b"[]")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        project.env |= {
            "PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api",
            "PREFECT_CLIENT_MAX_RETRIES": "0",
        }
        done = project.run("aigc", "pause", "digits-gan")
        why = "Server disconnected without sending a response.; see that it runs, and run the same command again"
        assert (done.returncode, done.stderr) == (1, f"error: Prefect's server: {why}\n")
        server.shutdown()
