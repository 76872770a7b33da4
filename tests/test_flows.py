"""The flow on a real Prefect server: schedules, deployments, one training at a time on a GPU."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, Project, error, wait_for
from filelock import FileLock

from aigc_tasks import lifeline

pytestmark = pytest.mark.slow


def ask(api: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{api}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def completed(api: str, deployment: str) -> list[dict[str, Any]]:
    chosen = {
        "deployments": {"name": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    return ask(api, "/flow_runs/filter", chosen)


def wait_for_run(api: str, deployment: str) -> dict[str, Any]:
    return wait_for(lambda: completed(api, deployment))[0]


def test_a_schedule_fires(done: Project, prefect_api: str) -> None:
    done.env["PREFECT_API_URL"] = prefect_api
    program = (
        "from flows.pipeline import pipeline; "
        "pipeline.serve('every-few-seconds', interval=5, parameters={'recipe': 'digits-gan'})"
    )
    serving = done.start("python", "-c", program, start_new_session=True)
    try:
        run = wait_for_run(prefect_api, "every-few-seconds")
    finally:
        lifeline.stop(serving)
    assert run["state_name"] == "UpToDate"
    assert run["auto_scheduled"]


def test_a_deployment_runs_on_a_worker_and_gives_the_same_bytes(
    finished: Project, untrained: Project, prefect_api: str
) -> None:
    untrained.env["PREFECT_API_URL"] = prefect_api
    untrained.check("prefect", "work-pool", "create", "aigc", "--type", "process")
    untrained.check("prefect", "--no-prompt", "deploy", "--all")
    untrained.check("prefect", "deployment", "run", "pipeline/digits-gan")
    worker = untrained.start("aigc", "work", start_new_session=True)
    try:
        run = wait_for_run(prefect_api, "digits-gan")
    finally:
        lifeline.stop(worker)
    assert run["state_name"] == "Completed"
    assert untrained.lock() == finished.lock()


HOLDER = """
import os
from pathlib import Path
from prefect import flow
from aigc_tasks.recipe import recipe
from flows import pipeline, stopping

pipeline.DRIVER = Path("driver")  # answered as on a machine that has one

@flow
def train():
    with stopping.limited(float(os.environ.get("MINUTES", 10))), pipeline.one_on_gpu(recipe("digits-gan")):
        print("trains", flush=True)
        input()

train()
"""


def test_one_training_at_a_time_on_a_gpu(done: Project, prefect_api: str, tmp_path: Path) -> None:
    """Also after one was killed, whose turn is over."""
    (done.path / "driver").write_text("here")
    done.env |= {"PREFECT_API_URL": prefect_api, "TMPDIR": str(tmp_path)}

    def started(**env: str) -> subprocess.Popen[str]:
        return Project(done.path, done.env | env).start("python", "-c", HOLDER, stdin=subprocess.PIPE)

    def said(process: subprocess.Popen[str], words: str) -> bool:
        assert process.stdout is not None
        return any(words in line for line in process.stdout)

    first = started()
    assert said(first, "trains")
    elsewhere = started(CUDA_VISIBLE_DEVICES="1")
    assert said(elsewhere, "trains"), "that is another GPU"
    late = started(MINUTES="0.05")
    assert "its time limit is up" in late.communicate()[0]
    second = started()
    assert said(second, "waiting for the training that is at work on the GPU")
    first.kill()
    assert said(second, "trains")
    for process in (elsewhere, second):
        process.communicate("\n")
    first.communicate()


def test_cancel_ends_the_wait_for_another_in_the_folder(project: Project, prefect_api: str) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    (project.path / ".aigc").mkdir()
    (project.path / ".aigc/workspace").write_text("another (process 1)")
    with FileLock(project.path / ".aigc/workspace.lock"):
        waiting = project.start("aigc", "run", "digits-gan")
        assert waiting.stdout is not None
        assert any("waiting for another (process 1)" in line for line in waiting.stdout)
        running = {"state": {"type": {"any_": ["RUNNING"]}}}  # other tests' may be due later, which sorts them first
        (run, *_) = ask(prefect_api, "/flow_runs/filter", {"flow_runs": running, "sort": "START_TIME_DESC"})
        ask(prefect_api, f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        assert error(waiting.communicate(timeout=TIMEOUT)[0]) == "error: cancelled while it waited"


def test_a_stage_that_cannot_work_ends_the_flow_with_its_own_line(project: Project, prefect_api: str) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    project.check("aigc", "add", "mnist-mlpgan")
    project.edit(lambda p: p["datasets"]["mnist"]["acquire"].update(source="nowhere"))
    done = project.run("aigc", "run", "mnist-mlpgan")
    assert done.returncode == 1
    assert error(done.stderr).startswith("error: acquire@mnist: nowhere: no such folder; set `source`")
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stdout.count("Running stage") + done.stderr.count("Running stage") == 1, "a retry cannot help here"
