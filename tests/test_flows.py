"""The flow on a real Prefect server: schedules, deployments, one training at a time on a GPU."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, error, wait_for

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


def test_one_training_at_a_time_on_a_gpu(
    done: Project, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is Prefect's own; only the look for a driver is answered as on a machine that has one."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from aigc_tasks.recipe import recipe
    from flows import pipeline, stopping

    monkeypatch.chdir(done.path)
    (tmp_path / "driver").write_text("here")
    monkeypatch.setattr(pipeline, "DRIVER", tmp_path / "driver")
    settings = recipe("digits-gan")
    order: list[str] = []

    def train(name: str, started: threading.Event, may_end: threading.Event) -> None:
        with temporary_settings({PREFECT_API_URL: prefect_api}), pipeline.one_on_gpu(settings):
            order.append(f"{name} begins")
            started.set()
            may_end.wait(30)
            order.append(f"{name} ends")

    events = [threading.Event() for _ in range(4)]
    first = threading.Thread(target=train, args=("first", events[0], events[1]))
    second = threading.Thread(target=train, args=("second", events[2], events[3]))
    first.start()
    assert events[0].wait(30)
    second.start()
    with (
        temporary_settings({PREFECT_API_URL: prefect_api}),
        stopping.limited(0.01),
        pytest.raises(stopping.TimeIsUp),
        pipeline.one_on_gpu(settings),
    ):
        order.append("it is not waited for")
    assert not events[2].wait(1)
    events[1].set()
    assert events[2].wait(60)
    events[3].set()
    first.join()
    second.join()
    assert order == ["first begins", "first ends", "second begins", "second ends"]


def test_a_stage_that_cannot_work_ends_the_flow_with_its_own_line(project: Project, prefect_api: str) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    project.check("aigc", "add", "mnist-mlpgan")
    project.edit(lambda p: p["datasets"]["mnist"]["acquire"].update(source="nowhere"))
    done = project.run("aigc", "run", "mnist-mlpgan")
    assert done.returncode == 1
    assert error(done.stderr).startswith("error: acquire@mnist: nowhere: no such folder; set `source`")
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stdout.count("Running stage") + done.stderr.count("Running stage") == 1, "a retry cannot help here"
