"""``aigc serve`` keeps the schedules, and ``prefect.yaml`` has them for workers; real server, real runner."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, TIMEOUT, Project, wait_for
from pictures import FIRST, GROWN, draw
from ruamel.yaml import YAML
from test_flows import ask, wait_for_run
from test_retrain import at_work, checkpointed, kept, slowly

from aigc_tasks import lifeline, servers, status
from aigc_tasks.errors import UserError
from flows import deployments, stopping

pytestmark = pytest.mark.slow


@pytest.fixture
def alone(on_a_folder: Project, tmp_path: Path, prefect_home: Path) -> Project:
    """A project that has learned from a folder, with a Prefect of its own that has run nothing yet."""
    project = on_a_folder.copied(tmp_path / "project")
    project.env["PREFECT_HOME"] = str(prefect_home)
    return project


def schedule(**knobs: Any) -> Callable[[Any], None]:
    return lambda params: params["recipes"]["digits-gan"].update(schedule=knobs)


@contextmanager
def serving(project: Project) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``aigc serve``, from when it is ready, and the address of its Prefect API; killed at the end if it still runs."""
    log = project.path.parent / "serve.log"
    with open(log, "w") as output:
        served = project.start("aigc", "serve", "--port", "0", stdout=output, start_new_session=True)
    try:
        wait_for(lambda: "ready; " in log.read_text() or served.poll() is not None)
        found = re.search(r"^Prefect   (http://127\.0\.0\.1:\d+)$", log.read_text(), re.MULTILINE)
        assert found, log.read_text()
        yield served, f"{found[1]}/api"
    finally:
        lifeline.stop(served)


def states(api: str) -> list[str]:
    runs = ask(api, "/flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_ASC"})
    return [run["state_name"] for run in runs if run["start_time"]]


def test_a_schedule_retrains_and_a_kill_costs_nothing(alone: Project) -> None:
    """New data, found by a schedule that fires every few seconds; then kill -9 in training, and a restart."""
    alone.edit(schedule(interval=10))
    with serving(alone) as (served, api):
        wait_for(lambda: "UpToDate" in states(api))
        assert len(alone.runs()) == 1
        alone.edit(slowly)
        draw(alone.path / "pictures", range(FIRST, GROWN))
        wait_for(lambda: checkpointed(alone))
        family = psutil.Process(served.pid).children(recursive=True)
        served.send_signal(signal.SIGKILL)
        served.wait()
        psutil.wait_procs(family, timeout=20)
        assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    with serving(alone) as (served, api):
        assert "digits-gan goes on: it was at work when it was killed" in (alone.path.parent / "serve.log").read_text()
        wait_for(lambda: "Completed" in states(api))
        assert "Skipped" in states(api), "the starts that found it at work made way"
        log = (alone.path.parent / "serve.log").read_text()
        assert "resumes after step" in log
        assert f"digits has grown: {GROWN - FIRST} images new, 0 gone" in log
        assert len(alone.runs()) == 2, "the training that was killed went on in its run"
        served.send_signal(signal.SIGTERM)
        assert served.wait(TIMEOUT) == 130
    assert kept(alone).keys() >= {"train@digits-gan", "evaluate@digits-gan"}
    assert alone.check("git", "status", "--porcelain", "--untracked-files=no").strip() == "M params.yaml"


def test_a_server_that_is_away_for_a_while_ends_no_training(alone: Project) -> None:
    port = servers.free_port(0)
    alone.env |= {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui", "--no-services")
    log = alone.path.parent / "server.log"

    @contextmanager
    def server() -> Iterator[None]:
        with open(log, "w") as output:
            process = alone.start(*command, stdout=output, start_new_session=True)
        try:
            wait_for(lambda: servers.answers(f"{alone.env['PREFECT_API_URL']}/health") or process.poll() is not None)
            yield
        finally:
            lifeline.stop(process)

    alone.edit(slowly)
    with server():
        retraining = alone.start("aigc", "retrain", "digits-gan")
        wait_for(lambda: checkpointed(alone), by=retraining)
        stage = at_work(alone, "-m aigc_tasks.train")
        assert stage is not None
        stage.suspend()  # so that it is not done while the server is away
    time.sleep(3 * stopping.WATCH)
    assert stage.status() == psutil.STATUS_STOPPED
    with server():
        stage.resume()
        said, _ = retraining.communicate()
    assert retraining.returncode == 0, said
    assert "resumes after step" not in said


def test_a_paused_recipe_stays_paused_and_of_missed_starts_one_is_made_up_for(alone: Project) -> None:
    alone.edit(schedule(interval=8))
    with serving(alone) as (_, api):
        wait_for(lambda: states(api))
    time.sleep(20)  # in which several starts are due
    with serving(alone) as (_, api):
        wait_for(lambda: "Missed" in states(api))
        alone.env["PREFECT_API_URL"] = api
        assert alone.check("aigc", "pause", "digits-gan") == "digits-gan is paused; go on: aigc resume digits-gan\n"
        assert "PAUSED" in alone.run("aigc", "status").stdout
    del alone.env["PREFECT_API_URL"]
    with serving(alone) as (_, api):
        (deployment,) = wait_for(lambda: ask(api, "/deployments/filter", {}))
        assert deployment["paused"]
        ui = alone.start("aigc", "ui", "--mlflow-port", "0")
        assert ui.stdout is not None
        lines = [ui.stdout.readline() for _ in range(3)]
        ui.terminate()
        ui.communicate()
        assert lines[1:] == [f"Prefect  {api.removesuffix('/api')}   (it runs already)\n", "ready; Ctrl-C ends both\n"]
        assert (alone.path / ".aigc/prefect.json").exists(), "it is not the page's to take away"
        alone.check("aigc", "resume", "digits-gan")
        assert not ask(api, "/deployments/filter", {})[0]["paused"]


def test_an_interval_goes_on_where_it_was(alone: Project) -> None:
    """Served anew more often than it comes round it would otherwise never be due."""
    alone.edit(schedule(interval=36_000))

    def due(api: str) -> dict[str, str]:
        found = ask(api, "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        return {run["id"]: run["expected_start_time"] for run in found}

    def made_anew(api: str) -> dict[str, str]:
        found = due(api)
        return found if not found.keys() & first.keys() else {}

    with serving(alone) as (_, api):
        first = wait_for(lambda: due(api))
    with serving(alone) as (_, api):
        again = wait_for(lambda: made_anew(api))
        assert next(iter(again.values())) == next(iter(first.values()))
    alone.check("aigc", "deploy")
    once = (alone.path / "prefect.yaml").read_text()
    alone.check("aigc", "deploy")
    assert (alone.path / "prefect.yaml").read_text() == once


def test_what_a_command_left_killed_is_left_to_the_user(alone: Project) -> None:
    """No runner takes up a run without a deployment; and what was cancelled is forgotten."""
    alone.edit(slowly)
    with serving(alone) as (_, api):
        alone.env["PREFECT_API_URL"] = api
        by_hand = alone.start("aigc", "retrain", "digits-gan")
        wait_for(lambda: checkpointed(alone))
        by_hand.kill()
        by_hand.communicate()
        (run,) = ask(api, "/flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}})
    del alone.env["PREFECT_API_URL"]
    with serving(alone) as (_, api):
        assert "goes on" not in (alone.path.parent / "serve.log").read_text()
        assert ask(api, "/flow_runs/filter", {})[0]["state_name"] == "Running"
        assert "was killed while it was retrained" in alone.run("aigc", "status").stdout
        ask(api, f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
    with serving(alone) as (_, api):
        assert "was killed" not in alone.run("aigc", "status").stdout
        (deployment,) = wait_for(lambda: ask(api, "/deployments/filter", {}))
        run = ask(api, f"/deployments/{deployment['id']}/create_flow_run", {})
        wait_for(lambda: at_work(alone, "-m aigc_tasks.train"))
        ask(api, f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: {one["state_name"] for one in ask(api, "/flow_runs/filter", {})} == {"Cancelled"})
        assert "nothing is stuck" in alone.run("aigc", "status").stdout, "what the runner ended is no more to go on"


def test_what_was_killed_and_is_wanted_no_more_does_not_go_on(project: Project, prefect_home: Path) -> None:
    project.env["PREFECT_HOME"] = str(prefect_home)
    log, broken, note = project.path.parent / "serve.log", {"stepz": 1}, project.path / ".aigc/retrain/gone.json"
    project.edit(lambda p: p["recipes"].update(gone=p["recipes"]["digits-gan"]))

    def killed(api: str, state: str) -> str:
        (deployment,) = wait_for(lambda: ask(api, "/deployments/filter", {"deployments": {"name": {"any_": ["gone"]}}}))
        run = ask(api, f"/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "PENDING"}})["id"]
        ask(api, f"/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})
        note.parent.mkdir(exist_ok=True)
        note.write_text(json.dumps({"recipe": "gone", "pid": 1, "flow_run": run, "began": "then"}))
        return run

    def state(api: str, run: str) -> str:
        return ask(api, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})[0]["state_name"]

    with serving(project) as (_, api):
        run = killed(api, "CANCELLING")
    with serving(project) as (_, api):
        assert "gone does not go on: it was cancelled\n" in log.read_text()
        assert (state(api, run), note.exists()) == ("Cancelled", False)
        run = killed(api, "RUNNING")
    project.edit(lambda p: p["recipes"]["gone"].update(train=broken))
    with serving(project) as (_, api):
        assert "and this command started again: params.yaml: recipes.gone.train.stepz: unknown key;" in log.read_text()
        assert (state(api, run), note.exists()) == ("Running", True)
    project.edit(lambda p: p["recipes"].pop("gone"))
    with serving(project) as (_, api):
        assert "gone does not go on: params.yaml has no such recipe any more\n" in log.read_text()
        assert (state(api, run), note.exists()) == ("Cancelled", False)


def test_what_cannot_be_served_is_said_and_the_others_are_served(alone: Project) -> None:
    def broken(params: Any) -> None:
        params["recipes"]["worse"] = {**params["recipes"]["digits-gan"], "schedule": {"cron": "every day"}}

    alone.edit(broken)
    with serving(alone) as (_, api):
        log = (alone.path.parent / "serve.log").read_text()
        assert "not served: params.yaml: recipes.worse.schedule.cron: 'every day' is no cron expression" in log
        found = wait_for(lambda: ask(api, "/deployments/filter", {}))
        assert [one["name"] for one in found] == ["digits-gan"]


def test_prefect_yaml_has_the_schedules_and_a_worker_runs_them(alone: Project) -> None:
    alone.edit(lambda params: params["recipes"]["digits-gan"]["postprocess"].update(seed=1))
    alone.edit(schedule(cron="0 3 * * *", timezone="Europe/Berlin", overlap="queue"))
    assert alone.check("aigc", "deploy") == "prefect.yaml: digits-gan; next: prefect deploy --all\n"
    once = (alone.path / "prefect.yaml").read_text()
    alone.check("aigc", "deploy")
    assert (alone.path / "prefect.yaml").read_text() == once, "deploying twice changes nothing"
    with serving(alone) as (_, api):  # its server
        alone.env["PREFECT_API_URL"] = api
        alone.check("prefect", "work-pool", "create", "aigc", "--type", "process")
        alone.check("prefect", "--no-prompt", "deploy", "--all")
        alone.check("prefect", "--no-prompt", "deploy", "--all")
        (deployment,) = ask(api, "/deployments/filter", {"flows": {"name": {"any_": ["retrain"]}}})
        assert deployment["work_pool_name"] == "aigc"
        (found,) = deployment["schedules"]
        assert (found["schedule"]["cron"], found["schedule"]["timezone"]) == ("0 3 * * *", "Europe/Berlin")
        assert (found["active"], deployment["paused"]) == (True, False)
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        (automation,) = ask(api, "/automations/filter", {})
        assert automation["trigger"]["expect"] == ["aigc.data.changed"]
        assert automation["actions"][0]["parameters"] == {"because": "{{ event.payload.summary }}"}
        alone.check("prefect", "deployment", "run", "retrain/digits-gan")
        unknown = alone.run("aigc", "work", "--pool", "cluster")
        mend = "prefect work-pool create cluster --type process"
        assert unknown.stderr == f"error: the server has no work pool 'cluster'; make it: {mend}\n"
        worker = alone.start("aigc", "work", start_new_session=True)
        try:
            run = wait_for_run(api, "digits-gan")
        finally:
            lifeline.stop(worker)
        assert run["state_name"] == "Completed"


def test_what_is_deployed_for_a_pool_is_left_to_it(project: Project, prefect_home: Path) -> None:
    project.env["PREFECT_HOME"] = str(prefect_home)

    def found(api: str) -> list[dict[str, Any]]:
        return list(ask(api, "/deployments/filter", {"flows": {"name": {"any_": ["retrain"]}}}))

    with serving(project) as (_, api):
        wait_for(lambda: found(api))
        project.env["PREFECT_API_URL"] = api
        project.check("prefect", "work-pool", "create", "aigc", "--type", "process")
        project.check("prefect", "--no-prompt", "deploy", "--all")
        before = found(api)
    del project.env["PREFECT_API_URL"]
    with serving(project) as (_, api):
        said = "not served: digits-gan is deployed for the work pool 'aigc'; start: aigc work; or, to serve it, first: "
        assert (
            f"{said}prefect deployment delete retrain/digits-gan\n" in (project.path.parent / "serve.log").read_text()
        )
        assert found(api)[0]["pull_steps"] == before[0]["pull_steps"]


def test_a_start_that_made_way_does_not_hide_the_run_at_work(
    tmp_path: Path, prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
    port = servers.free_port(0)
    api = f"http://127.0.0.1:{port}/api"
    with servers.prefect(port, "--no-ui"):
        assert status.on_server(api) == {}
        flow = ask(api, "/flows/", {"name": "retrain"})["id"]
        limit = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
        deployment = ask(api, "/deployments/", {"name": "digits-gan", "flow_id": flow, **limit})["id"]
        first, second = (ask(api, f"/deployments/{deployment}/create_flow_run", {})["id"] for _ in range(2))
        for run, state in ((first, "PENDING"), (first, "RUNNING"), (second, "PENDING")):
            ask(api, f"/flow_runs/{run}/set_state", {"state": {"type": state}})
        assert sorted(states(api)) == ["Cancelled", "Running"], "as Prefect has it both have a start"
        last = status.on_server(api)["digits-gan"].last
        assert last is not None
        assert last.state == "Running"


def test_the_prefect_yaml_of_the_project_is_that_of_its_params_yaml(project: Project) -> None:
    """In the project itself, not in the shortened one."""
    for name in ("params.yaml", "prefect.yaml"):
        (project.path / name).write_bytes((ROOT / name).read_bytes())
    before = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text())
    project.check("aigc", "deploy")
    assert YAML(typ="safe").load((project.path / "prefect.yaml").read_text()) == before


RETRAINING = "{name: x, entrypoint: 'flows/retrain.py:retrain', parameters: "


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "not found; restore it, for example by `git checkout prefect.yaml`"),
        ("", "expected `deployments:` and more, got None; restore it: git checkout prefect.yaml"),
        ("name: a: b", " line 1 is not YAML: mapping values are not allowed here; mend that line"),
        ("deployments: x", "deployments: expected a list, got 'x'; begin every entry with `- name:`"),
        (
            f"deployments: [{RETRAINING}{{recipe: x}}}}, {{name: x}}, {RETRAINING}}}]",
            "deployments.2: x is retrained by deployments.0 already; keep one of the two",
        ),
        (
            f"deployments: [{RETRAINING}{{recipe: y}}}}]",
            "deployments.0.name: 'x' retrains 'y'; a retraining is named after its recipe: rename or remove it",
        ),
        ("deployments: [{tags: []}]", "deployments.0: expected an entry with a `name:`, got {'tags': []}; add it"),
    ],
)
def test_what_was_edited_wrongly_in_prefect_yaml_is_one_line(
    text: str | None, words: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    file = project.path / "prefect.yaml"
    file.write_text(text) if text is not None else file.unlink()
    with pytest.raises(UserError) as said:
        deployments.write()
    assert str(said.value).removeprefix("prefect.yaml:").strip() == words.strip()


def test_what_else_is_deployed_may_have_dates(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    own = "{name: own, entrypoint: 'own.py:flow', parameters: {since: 2024-01-01}}"
    (project.path / "prefect.yaml").write_text(f"deployments:\n  - {own}\n")
    deployments.write()
    assert "since: 2024-01-01" in (project.path / "prefect.yaml").read_text()


def test_a_prefect_yaml_whose_deployments_were_all_deleted_has_them_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    (project.path / "prefect.yaml").write_text("name: aigc\ndeployments:\n")
    assert deployments.write() == ["digits-gan"]
    assert "- name: digits-gan" in (project.path / "prefect.yaml").read_text()
