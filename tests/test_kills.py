"""Kills, cancels, a full disk: nothing is left running, nothing finished is lost, the next run goes on where it was."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request

import psutil
import pytest
from conftest import TIMEOUT, Project, error, wait_for

pytestmark = pytest.mark.slow


def processes_of(project: Project) -> list[psutil.Process]:
    """Everything alive that works in the project's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(project.path) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def find(project: Project, what: str) -> psutil.Process | None:
    marks = {"flow": "bin/aigc run", "dvc": "lifeline dvc repro", "stage": "-m aigc_tasks.train"}
    for process in processes_of(project):
        try:
            if marks[what] in " ".join(process.cmdline()):
                return process
        except psutil.Error:
            continue
    return None


def checkpointed(project: Project) -> bool:
    return any((project.path / ".aigc/checkpoints").rglob("checkpoint.safetensors"))


def trains_to_the_same_bytes(project: Project, finished: Project, *command: str) -> str:
    """Whatever was begun before; by hand, if no command is given. Returns what is said."""
    done = project.run(*(command or ("dvc", "repro", "train@digits-gan")))
    assert done.returncode == 0, done.stderr
    assert project.lock()["train@digits-gan"] == finished.lock()["train@digits-gan"]
    (run,) = project.runs()
    assert run.info.status == "FINISHED"
    points = project.mlflow().get_metric_history(run.info.run_id, "curves/generator")
    assert [point.step for point in points] == [20, 40, 60]
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("victim", "moment"),
    [(victim, "first checkpoint") for victim in ("flow", "dvc", "stage")] + [("flow", "before training")],
)
def test_kill_9_leaves_no_orphan_and_resumes_to_the_same_bytes(
    victim: str, moment: str, finished: Project, untrained: Project, prefect_api: str
) -> None:
    if moment == "first checkpoint":
        untrained.env["PREFECT_API_URL"] = prefect_api  # else a temporary server, which must end too
    flow = untrained.start("aigc", "run", "digits-gan")
    if moment == "first checkpoint":
        wait_for(lambda: checkpointed(untrained), by=flow)
    else:
        wait_for(lambda: find(untrained, "stage"), by=flow)
    process = find(untrained, victim)
    assert process is not None
    process.kill()
    output, _ = flow.communicate(timeout=TIMEOUT)
    assert flow.returncode != 0
    assert "Traceback" not in output
    wait_for(lambda: not processes_of(untrained), 60)
    assert not (untrained.path / "data/models/digits-gan").exists(), "nobody went on"
    again = ("aigc", "run", "digits-gan") if victim == "flow" else ()
    said = trains_to_the_same_bytes(untrained, finished, *again)
    assert ("resumes after step" in said) == (moment == "first checkpoint")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_flow_that_is_asked_to_stop_stops_its_stage(
    sign: signal.Signals, finished: Project, untrained: Project, prefect_api: str
) -> None:
    untrained.env["PREFECT_API_URL"] = prefect_api
    flow = untrained.start(
        "aigc", "run", "digits-gan", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    wait_for(lambda: checkpointed(untrained), by=flow)
    flow.send_signal(sign)
    output, _ = flow.communicate(timeout=TIMEOUT)
    assert flow.returncode not in (0, None)
    assert not processes_of(untrained)
    assert "Traceback" not in output
    (run,) = untrained.runs()
    assert run.info.status == "KILLED"
    assert "resumes after step" in trains_to_the_same_bytes(untrained, finished)


def test_killed_between_the_stages_end_and_dvcs_record_is_one_run(finished: Project, untrained: Project) -> None:
    """The stage has finished its run and removed its checkpoint; DVC, killed, never wrote that down."""
    untrained.check("python", "-m", "aigc_tasks.train", "digits-gan")
    assert not list((untrained.path / ".aigc/checkpoints/digits-gan").iterdir())
    trains_to_the_same_bytes(untrained, finished)


def test_a_forced_training_is_a_new_run_with_the_same_bytes(done: Project) -> None:
    before = done.hashes()
    done.check("dvc", "repro", "--force", "--single-item", "train@digits-gan")
    assert done.hashes() == before
    assert len(done.runs()) == 2


def test_cancel_in_prefects_ui_stops_the_work(untrained: Project, prefect_api: str) -> None:
    untrained.env["PREFECT_API_URL"] = prefect_api
    untrained.edit(lambda p: p["recipes"]["digits-gan"]["train"].update(steps=100_000))
    flow = untrained.start("aigc", "run", "digits-gan")
    wait_for(lambda: checkpointed(untrained), by=flow)
    (run,) = untrained.runs()
    flow_run = f"{prefect_api}/flow_runs/{run.data.tags['prefect.flow_run_id']}"
    body = json.dumps({"state": {"type": "CANCELLING"}}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{flow_run}/set_state", body, {"Content-Type": "application/json"}))
    output, _ = flow.communicate(timeout=TIMEOUT)
    assert flow.returncode == 1
    assert error(output) == "error: cancelled; run again to go on from the last checkpoint"
    assert not processes_of(untrained)
    with urllib.request.urlopen(flow_run) as answer:
        assert json.load(answer)["state"]["type"] == "CANCELLED"


def test_two_flows_take_turns_and_take_up_what_was_killed_by_hand(
    finished: Project, untrained: Project, prefect_api: str
) -> None:
    dvc = untrained.start("dvc", "repro")
    wait_for(lambda: checkpointed(untrained), by=dvc)
    dvc.kill()
    dvc.communicate(timeout=TIMEOUT)
    wait_for(lambda: not processes_of(untrained), 60)
    assert not (untrained.path / "data/models/digits-gan").exists(), "nobody went on"

    untrained.env["PREFECT_API_URL"] = prefect_api
    first = untrained.start("aigc", "run", "digits-gan")
    wait_for(lambda: find(untrained, "stage"), by=first)
    second = untrained.run("aigc", "run", "digits-gan")
    said, _ = first.communicate(timeout=TIMEOUT)
    assert first.returncode == second.returncode == 0, second.stderr
    assert "resumes after step" in said
    assert "waiting for digits-gan (process" in second.stderr + second.stdout
    assert untrained.hashes() == finished.hashes()
    assert len(untrained.runs()) == 1


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(finished: Project, untrained: Project) -> None:
    """A real full file system, smaller than one checkpoint, where the checkpoints go."""
    place = untrained.path / ".aigc/checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        limited = untrained.run("dvc", "repro", "train@digits-gan")
    finally:
        subprocess.run(["umount", place], check=True)
    assert limited.returncode != 0
    assert "No space left on device; free some disk space" in limited.stderr
    assert "Traceback" not in limited.stderr
    (run,) = untrained.runs()
    assert run.info.status == "FAILED"
    trains_to_the_same_bytes(untrained, finished)
