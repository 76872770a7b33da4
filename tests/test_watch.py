"""``aigc watch`` tells Prefect of real changes, once; and an event starts the retraining."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, Project, wait_for
from pictures import FIRST, GROWN, draw, learn_from_a_folder
from test_flows import ask
from test_serve import schedule, serving, states

from aigc_tasks import watch
from aigc_tasks.errors import UserError

EVERY, SETTLE = "0.3", "1"


@pytest.fixture
def place(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a source of some pictures, which this process works in; the pictures."""
    draw(project.path / "pictures", range(12))
    project.edit(learn_from_a_folder)
    monkeypatch.chdir(project.path)
    return project.path / "pictures"


def looks() -> tuple[watch.Watched, list[str]]:
    from aigc_tasks import recipe

    return watch.Watched(recipe.dataset("digits")), []


@contextmanager
def telling(api: str) -> Iterator[None]:
    """Prefect reads its settings once in a process: a changed environment would come too late."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}):
        yield


def test_what_is_merely_touched_has_not_changed(place: Path) -> None:
    watched, said = looks()
    watched.look(0, said.append)
    assert said == ["digits: 12 entries, remembered as they are"]
    for picture in place.rglob("*.png"):
        os.utime(picture)
    watched.look(0, said.append)
    assert len(said) == 1
    assert watched.told == watched.seen, "its new time is remembered"


def test_a_change_without_a_server_is_kept_until_there_is_one(place: Path) -> None:
    lost = "digits: 3 added; not told yet: Prefect's server: ConnectError; start it: aigc serve"
    watched, said = looks()
    watched.look(0, said.append)
    draw(place, range(12, 15))
    with telling("http://127.0.0.1:9/api"):
        for _ in range(3):
            watched.look(0, said.append)
        assert said[1:] == [lost]
        again, said = looks()
        again.look(0, said.append)
    assert said == [lost]


def test_what_still_changes_is_not_told(place: Path) -> None:
    watched, said = looks()
    watched.look(60, said.append)
    draw(place, range(12, 15))
    watched.look(60, said.append)
    assert len(said) == 1, "it has yet to settle"
    (place / "3" / "3.png").unlink()
    watched.look(60, said.append)
    assert watch.changes(watched.told or {}, watched.seen or {}) == {"added": 3, "changed": 0, "removed": 1}


def test_a_source_that_is_away_is_said_once_each_time(place: Path) -> None:
    watched, said = looks()
    watched.look(0, said.append)
    for times in (1, 2):
        place.rename(place.with_name("elsewhere"))
        for _ in range(3):
            watched.look(0, said.append)
        place.with_name("elsewhere").rename(place)
        watched.look(0, said.append)
        assert len(said) == 1 + times
        assert said[times].startswith("digits: cannot be looked at: ")


@pytest.mark.slow
def test_a_host_that_is_away_is_no_change_and_its_files_are_not_fetched(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "web"))

        def log_request(self, *_: Any) -> None:
            asked.append(self.command)

    draw(tmp_path / "web", range(3))
    paths = [path.relative_to(tmp_path / "web") for path in (tmp_path / "web").rglob("*.png")]
    hosts = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    for host in hosts:
        threading.Thread(target=host.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{host.server_port}/{path}" for host in hosts for path in paths]
    project.edit(lambda p: p["datasets"]["digits"].update(acquire={"kind": "urls", "urls": urls}))
    monkeypatch.chdir(project.path)
    watched, said = looks()
    watched.look(60, said.append)
    assert said == ["digits: 6 entries, remembered as they are"]
    assert set(asked) == {"HEAD"}

    hosts[0].shutdown()
    hosts[0].server_close()
    (tmp_path / "web" / paths[0]).write_bytes(b"another picture")
    watched.look(60, said.append)
    hosts[1].shutdown()
    hosts[1].server_close()
    assert len(said) == 1
    found = watch.changes(watched.told or {}, watched.seen or {})
    assert found == {"added": 0, "changed": 1, "removed": 0}, "that of the host that is there alone"


def test_another_source_is_remembered_anew(place: Path) -> None:
    watched, said = looks()
    watched.look(0, said.append)
    params = place.with_name("params.yaml")
    params.write_text(params.read_text().replace("source: pictures", "source: others"))
    place.rename(place.with_name("others"))
    again, said = looks()
    again.look(0, said.append)
    assert said == ["digits: 12 entries, remembered as they are"]


def test_what_cannot_change_is_not_watched(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    said: list[str] = []
    with pytest.raises(UserError, match="nothing to watch"):
        watch.watch([], 1, 1, said.append)
    assert said == ["digits: not watched, digits does not change"]


def test_a_broken_recipe_is_said_and_the_data_of_the_others_is_watched(place: Path) -> None:
    params = place.with_name("params.yaml")
    project = Project(place.parent)
    project.edit(lambda p: p["recipes"].update(worse={**p["recipes"]["digits-gan"], "train": {"stepz": 5}}))
    said: list[str] = []
    assert [dataset.name for dataset in watch.chosen([], said.append)] == ["digits"]
    assert said == ["not watched: params.yaml: recipes.worse.train.stepz: unknown key; did you mean 'steps'?"]
    params.write_text(params.read_text().replace("source: pictures", "sauce: pictures"))
    with pytest.raises(UserError, match="nothing to watch: "):
        watch.chosen([], said.append)
    assert said[1:] == [f"not watched: {said[1].partition(': ')[2]}"] * 2
    assert "datasets.digits.acquire.sauce: unknown key; did you mean 'source'?" in said[1]


@contextmanager
def watching(project: Project) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    log = project.path.parent / "watch.log"
    with open(log, "a") as output:
        child = project.start("aigc", "watch", "--every", EVERY, "--settle", SETTLE, stdout=output)
    try:
        wait_for(lambda: "watching its source" in log.read_text() or child.poll() is not None)
        yield child, log
    finally:
        child.kill()
        child.wait()


def told(api: str) -> list[dict[str, Any]]:
    """The payloads of the events that have reached the server, oldest first."""
    found = ask(api, "/events/filter", {"filter": {"event": {"name": ["aigc.data.changed"]}, "order": "ASC"}})
    return [event["payload"] for event in found["events"]]


@pytest.mark.slow
def test_a_burst_is_one_event_also_if_it_came_while_nobody_watched(project: Project, prefect_api: str) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    draw(project.path / "pictures", range(12))
    project.edit(learn_from_a_folder)
    before = len(told(prefect_api))
    with watching(project) as (child, log):
        wait_for(lambda: "remembered as they are" in log.read_text())
        for number in range(12, 18):
            draw(project.path / "pictures", range(number, number + 1))
            time.sleep(0.4)
        wait_for(lambda: "told Prefect" in log.read_text())
        child.send_signal(signal.SIGTERM)
        assert child.wait(TIMEOUT) == 130
    draw(project.path / "pictures", range(18, 20))
    with watching(project) as (child, log):
        wait_for(lambda: log.read_text().count("told Prefect") == 2)
    events = wait_for(lambda: len(told(prefect_api)) >= before + 2 and told(prefect_api)[before:])
    assert [event["summary"] for event in events] == ["digits: 6 added", "digits: 2 added"]
    assert events[0] == {"dataset": "digits", "added": 6, "changed": 0, "removed": 0, "summary": "digits: 6 added"}


@pytest.mark.slow
def test_a_change_that_comes_back_is_told_again(place: Path, prefect_api: str) -> None:
    """The server drops an event whose id it has had."""
    before = len(told(prefect_api))
    watched, said = looks()
    watched.look(0, said.append)
    with telling(prefect_api):
        for _ in range(2):
            draw(place, range(12, 15))
            watched.look(0, said.append)
            for number in range(12, 15):
                next(place.rglob(f"{number}.png")).unlink()
            watched.look(0, said.append)
    assert [line.endswith("told Prefect") for line in said[1:]] == [True] * 4, said
    events = wait_for(lambda: len(told(prefect_api)) >= before + 4 and told(prefect_api)[before:])
    assert [event["summary"] for event in events] == ["digits: 3 added", "digits: 3 removed"] * 2


@pytest.mark.slow
def test_new_data_starts_a_retraining_that_knows_why_or_waits_while_it_is_paused(
    project: Project, prefect_home: Path
) -> None:
    draw(project.path / "pictures", range(FIRST))
    project.edit(learn_from_a_folder)
    project.edit(schedule())
    project.env["PREFECT_HOME"] = str(prefect_home)
    with serving(project) as (_, api), watching(project) as (_, log):
        wait_for(lambda: "remembered as they are" in log.read_text())
        project.env["PREFECT_API_URL"] = api
        project.check("aigc", "pause", "digits-gan")
        draw(project.path / "pictures", range(FIRST, GROWN))
        wait_for(lambda: states(api) == ["Held"])
        said = project.check("aigc", "resume", "digits-gan")
        assert said.endswith(f"because of what was held: digits: {GROWN - FIRST} added\n")
        wait_for(lambda: states(api) == ["Held", "Completed"])
        runs = ask(api, "/flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}})
    told = {"recipe": "digits-gan", "because": f"digits: {GROWN - FIRST} added"}
    assert [run["parameters"] for run in runs] == [told, told]
    message = project.check("git", "log", "-1", "--format=%B", "retrain/digits-gan")
    assert f"Because: digits: {GROWN - FIRST} added\n" in message
