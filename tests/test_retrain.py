"""The flow ``retrain`` on a real Prefect server: the same data, grown data, drifted data, and no model yet."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, checkout
from PIL import Image
from test_flows import ask, wait_for_run

from aigc_tasks import lifeline

pytestmark = pytest.mark.slow

FIRST, GROWN = 120, 170  # pictures


def draw(place: Path, numbers: range, invert: bool = False) -> None:
    """Some of scikit-learn's digits as pictures in class folders."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = (found.images * 15.9).astype(np.uint8)
    for number in numbers:
        path = place / str(found.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels[number] if invert else pixels[number]).save(path)


@pytest.fixture(scope="module")
def on_a_folder(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Project:
    """A project that has learned from a folder of pictures, ``pictures`` in it. Take a copy, ``trained``."""
    project = checkout(Project(tmp_path_factory.mktemp("retrain") / "project", dict(env)))
    draw(project.path / "pictures", range(FIRST))

    def use_it(params: Any) -> None:
        params["datasets"]["digits"]["acquire"] = {"kind": "folder", "source": "pictures"}
        params["datasets"]["digits"]["clean"] = {"checks": {"near_duplicate": "off"}}
        params["recipes"]["digits-gan"]["postprocess"] = {"count": 60}

    project.edit(use_it)
    project.check("dvc", "repro")
    return project


@pytest.fixture
def trained(on_a_folder: Project, tmp_path: Path, prefect_api: str) -> Project:
    """A copy of it, free to change."""
    project = on_a_folder.copied(tmp_path / "project")
    project.env["PREFECT_API_URL"] = prefect_api
    return project


def last_run(project: Project) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """The last run of the flow as the server knows it: itself, its tasks' states, its artifacts by key."""
    api = project.env["PREFECT_API_URL"]
    newest = {"flows": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_DESC", "limit": 1}
    (run,) = ask(api, "/flow_runs/filter", newest)
    chosen = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    deadline = time.monotonic() + 30
    while True:  # task runs are recorded from events, a moment later
        tasks = {task["name"]: task["state_name"] for task in ask(api, "/task_runs/filter", chosen)}
        if (len(tasks) == 6 and "Running" not in tasks.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    artifacts = ask(api, "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    return run, tasks, {artifact["key"]: artifact["data"] for artifact in artifacts}


def versions(project: Project) -> list[str]:
    """How many entries the data set had at each version, newest first."""
    log = project.check("aigc", "data", "log", "digits")
    return re.findall(r"^ +\d+  \S+ \S+ +\S+ +(\d+) ", log, re.MULTILINE)


def test_the_same_source_trains_nothing(trained: Project) -> None:
    before = (trained.path / "dvc.lock").read_bytes()
    said = trained.check("aigc", "retrain", "digits-gan")
    assert "\ndigits is the same: 0 images new, 0 gone; digits-gan is up to date\n" in said
    run, tasks, artifacts = last_run(trained)
    assert run["state_name"] == "UpToDate"
    assert tasks.pop("acquire") == "Ran"
    assert tasks.pop("drift") == "Same"
    assert tasks == dict.fromkeys(("clean", "train", "postprocess", "evaluate"), "Skipped")
    assert artifacts.keys() == {"digits-gan-drift", "digits-gan-quality", "digits-data"}
    assert (trained.path / "dvc.lock").read_bytes() == before
    assert len(trained.runs()) == 1
    assert versions(trained) == [str(FIRST)]


def test_a_grown_source_is_a_new_version_and_a_new_training(trained: Project, tmp_path: Path) -> None:
    draw(trained.path / "pictures", range(FIRST, GROWN))
    trained.copied(tmp_path / "by-hand")
    said = trained.check("aigc", "retrain", "digits-gan")
    assert f"\ndigits has grown: {GROWN - FIRST} images new, 0 gone; digits-gan is up to date\n" in said
    run, tasks, artifacts = last_run(trained)
    assert run["state_name"] == "Completed"
    assert run["state"]["message"].startswith("digits has grown: ")
    assert tasks.pop("drift") == "Grown"
    assert tasks == dict.fromkeys(("acquire", "clean", "train", "postprocess", "evaluate"), "Ran")
    assert "| brightness | " in artifacts["digits-gan-drift"]
    assert "data:image/png;base64," in artifacts["digits-gan-drift"]
    assert len(trained.runs()) == 2
    assert versions(trained) == [str(GROWN), str(FIRST)]
    assert "digits-gan: same: " in trained.check("aigc", "drift", "digits-gan")

    by_hand = Project(tmp_path / "by-hand", trained.env)
    by_hand.check("aigc", "data", "update", "digits")
    for stage in ("acquire@digits", "clean@digits"):
        assert by_hand.lock()[stage] == trained.lock()[stage]


def test_inverted_pictures_are_a_drift_that_the_run_is_named_after(trained: Project) -> None:
    draw(trained.path / "pictures", range(FIRST), invert=True)
    said = trained.check("aigc", "retrain", "digits-gan")
    assert f"\ndigits has drifted: {FIRST} images new, {FIRST} gone; changed: " in said
    run, tasks, artifacts = last_run(trained)
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Drifted")
    assert re.search(r"changed: .*brightness.*; see reports/digits-gan/drift.png", run["state"]["message"])
    assert (tasks["drift"], tasks["train"]) == ("Drifted", "Ran")
    assert re.search(r"\| brightness \|.*\| changed \|", artifacts["digits-gan-drift"])
    assert Image.open(trained.path / "reports/digits-gan/drift.png").width > 1000
    assert len(trained.runs()) == 2


def test_from_nothing_it_gives_the_bytes_of_dvc_repro(finished: Project, project: Project, prefect_api: str) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    said = project.check("aigc", "retrain", "digits-gan")
    assert "\ndigits-gan has no model here yet to compare its data with; digits-gan is up to date\n" in said
    run, tasks, artifacts = last_run(project)
    assert run["state_name"] == "Completed"
    assert tasks.pop("drift") == "Skipped"
    assert set(tasks.values()) == {"Ran"}
    assert "digits-gan-drift" not in artifacts
    assert project.lock() == finished.lock()


def test_a_source_that_is_gone_ends_it_with_the_stages_own_line(trained: Project) -> None:
    shutil.rmtree(trained.path / "pictures")
    done = trained.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 1
    assert re.match(r"error: acquire@digits: pictures: no such folder or file; ", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr + done.stdout
    assert "up to date" in trained.check("aigc", "run", "digits-gan"), "the data and the model before are still there"


def test_its_deployment_runs_on_a_worker_and_its_schedule_sleeps(done: Project, prefect_api: str) -> None:
    done.env["PREFECT_API_URL"] = prefect_api
    done.check("prefect", "work-pool", "create", "aigc", "--type", "process", "--overwrite")  # test_flows has one too
    done.check("prefect", "--no-prompt", "deploy", "--name", "digits-gan-retrain")
    (deployment,) = ask(prefect_api, "/deployments/filter", {"flows": {"name": {"any_": ["retrain"]}}})
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    done.check("prefect", "deployment", "run", "retrain/digits-gan-retrain")
    worker = done.start("prefect", "worker", "start", "--pool", "aigc", start_new_session=True)
    try:
        run = wait_for_run(prefect_api, "digits-gan-retrain", 180)
    finally:
        lifeline.stop(worker)
    assert run["state_name"] == "UpToDate"
