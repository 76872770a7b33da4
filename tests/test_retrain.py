"""The flow ``retrain`` on a real Prefect server: what it does, what it keeps, and that nobody is disturbed by it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TIMEOUT, USER, Project, error, wait_for
from filelock import FileLock
from pictures import FIRST, GROWN, draw
from PIL import Image
from ruamel.yaml import YAML
from test_flows import ask

from aigc_tasks import retraining
from aigc_tasks.errors import UserError
from aigc_tasks.worktree import commit, git

pytestmark = pytest.mark.slow


def last_run(project: Project, ended: int = 0) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """The last run of the flow as the server knows it: itself, its tasks' states, its artifacts by key.

    Waits for the ends of so many tasks: they are recorded from events, a moment later.
    """
    api = project.env["PREFECT_API_URL"]
    newest = {"flows": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_DESC", "limit": 1}
    (run,) = ask(api, "/flow_runs/filter", newest)
    chosen = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    tasks: dict[str, str] = {}

    def all_told() -> bool:
        tasks.update({task["name"]: task["state_name"] for task in ask(api, "/task_runs/filter", chosen)})
        return len(tasks) >= ended and "Running" not in tasks.values()

    if ended:
        wait_for(all_told)
    artifacts = ask(api, "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    return run, tasks, {artifact["key"]: artifact["data"] for artifact in artifacts}


def worktree(project: Project, recipe: str = "digits-gan") -> Project:
    return Project(project.path / ".aigc/retrain" / recipe, project.env)


def kept(project: Project, recipe: str = "digits-gan") -> dict[str, Any]:
    """The stages in ``dvc.lock`` at the tip of the recipe's branch."""
    return YAML(typ="safe").load(project.check("git", "show", f"retrain/{recipe}:dvc.lock"))["stages"]


def branches(project: Project) -> str:
    return project.check("git", "branch", "--list", "retrain/*")


def seen(project: Project, apart: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Everything that a user sees in the checkout: all files but those below .git and our own scratch folder."""
    files = (path for path in project.path.rglob("*") if path.is_file())
    apart = (".git", ".aigc", ".dvc", "mlruns", *apart)
    return {str(path): path.read_bytes() for path in files if path.relative_to(project.path).parts[0] not in apart}


def versions(project: Project) -> list[str]:
    """How many entries the data set had at each version, newest first."""
    log = worktree(project).check("aigc", "data", "log", "digits")
    return re.findall(r"^ +\d+  \S+ \S+ +\S+ +(\d+) ", log, re.MULTILINE)


def test_the_same_source_trains_nothing(trained: Project) -> None:
    before = seen(trained)
    said = trained.check("aigc", "retrain", "digits-gan")
    assert "\nnothing has changed: digits-gan is up to date\n" in said
    run, tasks, artifacts = last_run(trained, 1)
    assert run["state_name"] == "UpToDate"
    assert tasks == {"acquire": "Ran"}
    assert not artifacts
    assert seen(trained) == before
    assert len(trained.runs()) == 1
    assert branches(trained) == "", "there is nothing to keep"
    assert versions(trained) == [str(FIRST)]

    there = worktree(trained).path / "dvc.lock"
    there.write_text(there.read_text()[:-100])  # as a kill may leave it
    assert "\nnothing has changed: " in trained.check("aigc", "retrain", "digits-gan")


def test_a_grown_source_is_trained_on_and_kept_on_a_branch(trained: Project, tmp_path: Path) -> None:
    draw(trained.path / "pictures", range(FIRST, GROWN))
    by_hand = trained.copied(tmp_path / "by-hand")
    trained.check("dvc", "install")  # hooks of git's that look for all data in whatever is checked out
    before = seen(trained), trained.check("git", "status", "--porcelain"), trained.check("git", "log", "--oneline")
    said = trained.check("aigc", "retrain", "digits-gan")
    assert f"\ndigits has grown: {GROWN - FIRST} images new, 0 gone; digits-gan is up to date\n" in said
    taking_over = re.search("take it over: (.*)", said)
    after = seen(trained), trained.check("git", "status", "--porcelain"), trained.check("git", "log", "--oneline")
    assert after == before, "the checkout is as it was"

    run, tasks, artifacts = last_run(trained, 6)
    assert run["state_name"] == "Completed"
    assert tasks.pop("drift") == "Grown"
    assert tasks == dict.fromkeys(("acquire", "clean", "train", "postprocess", "evaluate"), "Ran")
    assert "| brightness | " in artifacts["digits-gan-drift"]
    assert "data:image/png;base64," in artifacts["digits-gan-drift"]
    assert artifacts["digits-gan-samples"].count("data:image/png;base64,") == 2
    assert len(trained.runs()) == 2
    assert versions(trained) == [str(GROWN), str(FIRST)]

    message = trained.check("git", "log", "-1", "--format=%B", "retrain/digits-gan")
    newest = max(trained.runs(), key=lambda one: one.info.start_time)
    assert message.startswith("Retrain digits-gan: completed\n")
    assert f"MLflow run: {newest.info.run_id}" in message
    assert f"Prefect run: {run['id']}" in message

    by_hand.check("aigc", "data", "update", "digits")
    by_hand.check("dvc", "repro", "train@digits-gan")
    for stage in ("acquire@digits", "clean@digits", "train@digits-gan"):
        assert kept(trained)[stage] == by_hand.lock()[stage], "the same bytes as by hand"

    assert "nothing has changed" in trained.check("aigc", "retrain", "digits-gan")
    assert trained.check("git", "rev-list", "--count", "retrain/digits-gan").strip() == "3"  # start, edits, result
    assert len(trained.runs()) == 2

    assert taking_over, said
    trained.env |= USER
    trained.check("sh", "-c", taking_over[1])
    assert trained.lock() == kept(trained)
    assert "is up to date: nothing to run" in trained.check("aigc", "run", "digits-gan")


def test_inverted_pictures_are_a_drift_that_the_run_is_named_after(trained: Project) -> None:
    draw(trained.path / "pictures", range(FIRST), invert=True)
    said = trained.check("aigc", "retrain", "digits-gan")
    assert f"\ndigits has drifted: {FIRST} images new, {FIRST} gone; changed: " in said
    run, tasks, artifacts = last_run(trained, 6)
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Drifted")
    assert re.search(r"changed: .*brightness.*; see reports/digits-gan/drift.png", run["state"]["message"])
    assert (tasks["drift"], tasks["train"]) == ("Drifted", "Ran")
    assert re.search(r"\| brightness \|.*\| changed \|", artifacts["digits-gan-drift"])
    assert Image.open(worktree(trained).path / "reports/digits-gan/drift.png").width > 1000
    assert len(trained.runs()) == 2


def test_from_nothing_it_gives_the_bytes_of_dvc_repro_and_is_merged(
    finished: Project, project: Project, prefect_api: str
) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    said = project.check("aigc", "retrain", "digits-gan")
    assert "\ndigits-gan has no model here yet to compare its data with; digits-gan is up to date\n" in said
    run, tasks, artifacts = last_run(project, 6)
    assert run["state_name"] == "Completed"
    assert tasks.pop("drift") == "Skipped"
    assert set(tasks.values()) == {"Ran"}
    assert "digits-gan-drift" not in artifacts
    assert kept(project) == finished.lock()

    project.check("git", "merge", "--ff-only", "retrain/digits-gan")
    project.check("dvc", "checkout")
    assert "is up to date: nothing to run" in project.check("aigc", "run", "digits-gan")
    assert "nothing has changed" in project.check("aigc", "retrain", "digits-gan")

    draw_with_seed(project, 7)
    assert "nothing has changed" not in project.check("aigc", "retrain", "digits-gan")
    project.check("git", "merge", "--ff-only", "retrain/digits-gan")
    project.check("dvc", "checkout")
    draw_with_seed(project, 8)
    project.check("aigc", "run", "digits-gan")  # newer than the branch's: its old reports stay where they are
    assert "nothing has changed" in project.check("aigc", "retrain", "digits-gan")


def draw_with_seed(project: Project, seed: int) -> None:
    project.edit(lambda params: params["recipes"]["digits-gan"]["postprocess"].update(seed=seed))
    project.env |= USER
    project.check("git", "commit", "--quiet", "--all", "--message", f"Draw with seed {seed}")


def test_a_source_that_is_gone_ends_it_with_the_stages_own_line(trained: Project) -> None:
    trained.edit(lambda p: p["recipes"]["digits-gan"].update(schedule={"retries": 3, "retry_delay": 60}))
    shutil.rmtree(trained.path / "pictures")
    done = trained.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 1
    assert re.match(r"error: acquire@digits: .*pictures: no such folder or file; ", error(done.stderr))
    assert "Traceback" not in done.stderr + done.stdout
    assert "tried again" not in done.stderr + done.stdout, "waiting cannot help"
    assert branches(trained) == ""
    assert "up to date" in trained.check("aigc", "run", "digits-gan"), "the data and the model before are still there"


def slowly(params: Any) -> None:
    params["recipes"]["digits-gan"]["train"] = {"steps": 240, "checkpoint_every": 20, "picture_every": 240}


def at_work(project: Project, what: str) -> psutil.Process | None:
    """The process at work below the project's folder whose command line holds ``what``."""
    for process in psutil.process_iter():
        try:
            below = Path(process.cwd()).is_relative_to(project.path)
            if below and what in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except (psutil.Error, OSError):
            continue
    return None


def checkpointed(project: Project) -> bool:
    return any((worktree(project).path / ".aigc/checkpoints").rglob("checkpoint.safetensors"))


def test_kill_9_in_training_and_the_next_goes_on_in_the_same_run(trained: Project) -> None:
    draw(trained.path / "pictures", range(FIRST, GROWN))
    trained.edit(slowly)
    first = trained.start("aigc", "retrain", "digits-gan")
    wait_for(lambda: checkpointed(trained), by=first)
    first.kill()
    first.communicate()
    wait_for(lambda: at_work(trained, "aigc_tasks.train") is None)
    killed, _, _ = last_run(trained)
    assert killed["state_name"] == "Running", "nobody was left to say otherwise"
    looked = trained.run("aigc", "status")
    assert looked.returncode == 1
    assert "  digits-gan was killed while it was retrained (since " in looked.stdout

    said = trained.run("aigc", "retrain", "digits-gan")
    assert said.returncode == 0, said.stderr
    assert "resumes after step" in said.stdout + said.stderr
    assert f"digits has grown: {GROWN - FIRST} images new, 0 gone" in said.stdout, "compared with the model before"
    assert len(trained.runs()) == 2, "the training that was killed has one run, and so has the one before"
    states = {run["id"]: run["state_name"] for run in ask(trained.env["PREFECT_API_URL"], "/flow_runs/filter", {})}
    assert states[killed["id"]] == "Crashed"
    trained.check("git", "update-ref", "refs/remotes/origin/retrain/digits-gan", "retrain/digits-gan")
    looked = trained.run("aigc", "status").stdout
    assert "was killed" not in looked
    assert re.search("  branch     retrain/digits-gan is ahead: git add .* && dvc checkout ", looked), "the local one"


def test_a_stage_that_is_killed_is_tried_again_as_often_as_allowed(trained: Project) -> None:
    draw(trained.path / "pictures", range(FIRST, GROWN))
    trained.edit(slowly)
    trained.edit(lambda p: p["recipes"]["digits-gan"].update(schedule={"retries": 1, "retry_delay": 0.5}))
    retraining = trained.start("aigc", "retrain", "digits-gan")
    wait_for(lambda: checkpointed(trained), by=retraining)
    stage = at_work(trained, "-m aigc_tasks.train")
    assert stage is not None
    stage.send_signal(signal.SIGKILL)  # as the kernel does when memory runs out
    said, _ = retraining.communicate()
    assert retraining.returncode == 0, said
    assert "tried again in" in said
    assert "resumes after step" in said


def test_it_ends_when_its_time_is_up(trained: Project) -> None:
    draw(trained.path / "pictures", range(FIRST, GROWN))
    trained.edit(slowly)
    trained.edit(lambda p: p["recipes"]["digits-gan"]["train"].update(steps=100_000))
    trained.edit(lambda p: p["recipes"]["digits-gan"].update(schedule={"time_limit": 0.4, "retries": 2}))
    done = trained.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 1
    assert error(done.stderr).startswith("error: its time limit is up")
    run, _, _ = last_run(trained)
    assert (run["state_type"], run["state_name"]) == ("FAILED", "TimedOut")
    assert at_work(trained, "aigc_tasks.train") is None


def test_two_side_by_side_and_the_gate_that_refuses_a_bad_knob(trained: Project) -> None:
    """A good and a hopeless recipe compete for a product; both are retrained at once, in worktrees of their own."""

    def compete(params: Any) -> None:
        params["recipes"]["digits-gan"]["product"] = "numbers"
        params["recipes"]["digits-gan"]["postprocess"] = {"count": 100}
        other = YAML(typ="safe").load((trained.path / "recipes/digits-gan-hasty.yaml").read_text())["recipes"]
        params["recipes"]["bad"] = other["digits-gan-hasty"] | {
            "product": "numbers",
            "train": {"steps": 1},
            "postprocess": {"count": 100},
        }
        params["products"] = {"numbers": {"gate": {"at_most": {"fid_ratio": 500.0}}}}

    trained.edit(compete)
    draw(trained.path / "pictures", range(FIRST, GROWN))
    before = seen(trained)
    both = [trained.start("aigc", "retrain", recipe) for recipe in ("digits-gan", "bad")]
    said = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert seen(trained) == before
    client = trained.mlflow()
    found = {one.tags["aigc.recipe"]: one.version for one in client.search_model_versions("name='numbers'")}
    assert found.keys() == {"digits-gan", "bad"}
    shared = ("acquire@digits", "clean@digits", "features@digits")
    assert [kept(trained)[at] for at in shared] == [kept(trained, "bad")[at] for at in shared]
    assert kept(trained, "bad")["train@digits-gan"] == trained.lock()["train@digits-gan"], "the others' are kept"
    trained.check("aigc", "retrain", "digits-gan")  # it may have lost to the other's first come

    champion = client.get_model_version_by_alias("numbers", "champion")
    assert champion.tags["aigc.recipe"] == "digits-gan"
    for recipe, version in found.items():
        message = trained.check("git", "log", "-1", "--format=%B", f"retrain/{recipe}")
        assert f"Version: numbers {version}\n" in message
        assert "Decision: numbers version" in message
    proof = trained.run("aigc", "verify", "numbers@champion")
    assert proof.returncode == 0, (
        "its commit is on the branch, although nothing was committed by the user\n" + proof.stdout
    )

    trained.env |= USER
    for recipe in found:
        told = re.search(f"retrain/{recipe} is ahead: (.*)", trained.run("aigc", "status").stdout)
        assert told
        trained.check("sh", "-c", told[1])
    for recipe in found:
        for stage in ("train", "evaluate"):
            at = f"{stage}@{recipe}"
            assert trained.lock()[at] == kept(trained, recipe)[at], "merged by stages, not by lines"
    trained.check("git", "checkout", "--quiet", "HEAD~1", "--", "dvc.lock")  # without the second one's results
    assert "nothing has changed" not in trained.check("aigc", "retrain", recipe)
    assert f"train@{recipe}" in kept(trained, recipe), "kept again"


def test_a_copy_of_the_checkout_keeps_out_of_the_originals_worktree(trained: Project, tmp_path: Path) -> None:
    trained.check("aigc", "retrain", "digits-gan")
    copy = trained.copied(tmp_path / "Jürgens Kopie")
    copy.edit(lambda p: p["recipes"]["digits-gan"]["postprocess"].update(seed=1))
    before = copy.check("git", "status", "--porcelain", "--branch")
    asked_by_a_hook = {"GIT_DIR": f"{copy.path}/.git", "GIT_INDEX_FILE": f"{copy.path}/.git/index"}
    Project(copy.path, copy.env | asked_by_a_hook).check("aigc", "retrain", "digits-gan")
    assert copy.check("git", "status", "--porcelain", "--branch") == before
    assert branches(copy).strip() == "retrain/digits-gan"
    assert branches(trained) == ""
    trained.path.rename(tmp_path / "moved")
    moved = Project(tmp_path / "moved", trained.env)
    moved.check("aigc", "retrain", "digits-gan")
    assert branches(moved) == "", "nothing has changed"
    assert len(moved.runs()) == 1


def test_what_stands_in_its_way_is_one_line(trained: Project) -> None:
    trained.check("git", "worktree", "add", "--quiet", "-b", "retrain/digits-gan", "looked-at")
    done = trained.run("aigc", "retrain", "digits-gan")
    assert error(done.stderr).startswith(f"error: {trained.path}/looked-at is on branch retrain/digits-gan")
    trained.check("git", "worktree", "remove", "looked-at")
    trained.check("git", "switch", "--quiet", "retrain/digits-gan")
    done = trained.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 1
    assert error(done.stderr).startswith(f"error: {trained.path} is on branch retrain/digits-gan")
    trained.check("git", "switch", "--quiet", "-")
    lock = trained.path / "dvc.lock"
    good = lock.read_text()
    lock.write_text(f"<<<<<<< HEAD\n{good}")
    done = trained.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 1
    assert error(done.stderr).startswith("error: dvc.lock is not as DVC writes it; settle a merge, or")
    lock.write_text(good)

    trained.check("git", "branch", "--delete", "--force", "retrain/digits-gan")
    trained.check("git", "branch", "retrain")
    done = trained.run("aigc", "retrain", "digits-gan")
    assert error(done.stderr).startswith("error: branch retrain stands where retrain/digits-gan is to be; rename it")
    trained.check("git", "branch", "--delete", "retrain")
    (untold := trained.path / retraining.untold("digits-gan")).mkdir(parents=True)
    done = trained.run("aigc", "retrain", "digits-gan")
    assert error(done.stderr).endswith("Is a directory")
    assert last_run(trained)[0]["state"]["message"] == error(done.stderr).removeprefix("error: ")
    untold.rmdir()

    shutil.rmtree(trained.path / ".git")
    done = trained.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert error(done.stderr).startswith("error: git")


def test_starts_that_overlap_wait_or_make_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = (
        "import sys; from aigc_tasks import retraining\n"
        "with retraining.turn('r', None, sys.argv[1] == 'wait', print, lambda: None) as (why, left):\n"
        "    print(why, left and left.pid, flush=True)\n"
        "    why or input()\n"
    )

    def start(how: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(["python", "-c", program, how], cwd=tmp_path, stdin=pipe, stdout=pipe, text=True)

    first = start("skip")
    assert first.stdout is not None
    assert first.stdout.readline() == "None None\n"
    assert retraining.at_work("r")
    assert "r is being retrained already (process" in start("skip").communicate()[0]
    second = start("wait")
    assert second.stdout is not None
    assert "waiting for the retraining of r" in second.stdout.readline()
    assert "another start waits for its end already" in start("wait").communicate()[0]
    assert retraining.unfinished() == []
    first.kill()
    first.wait()
    assert second.stdout.readline() == f"None {first.pid}\n"
    assert retraining.note("r").pid == second.pid  # type: ignore[union-attr]
    next_one = start("wait")
    assert next_one.stdout is not None
    assert "waiting for the retraining of r" in next_one.stdout.readline(), "the one that waited is at work"
    next_one.kill()
    next_one.wait()
    second.kill()
    second.wait()
    assert [one.pid for one in retraining.unfinished()] == [second.pid]
    third = start("skip")
    assert third.stdout is not None
    assert third.stdout.readline() == f"None {second.pid}\n"
    fourth = start("wait")
    assert fourth.stdout is not None
    assert "waiting for the retraining of r" in fourth.stdout.readline()
    third.communicate("\n")
    assert fourth.stdout.readline() == "None None\n", "it has ended by itself"
    fourth.communicate("\n")
    assert retraining.unfinished() == []


def test_cancel_and_the_time_limit_end_the_wait_for_another(project: Project, prefect_api: str) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    other = retraining.beside("digits-gan", "lock")
    (project.path / other).parent.mkdir(parents=True)
    with FileLock(project.path / other):
        waiting = project.start("aigc", "retrain", "digits-gan")
        assert waiting.stdout is not None
        assert any("waiting for the retraining of digits-gan" in line for line in waiting.stdout)
        run, _, _ = last_run(project)
        ask(prefect_api, f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        assert error(waiting.communicate(timeout=TIMEOUT)[0]) == "error: cancelled while it waited"
        assert last_run(project)[0]["state_name"] == "Cancelled"

        project.edit(lambda p: p["recipes"]["digits-gan"].update(schedule={"time_limit": 0.02}))
        done = project.run("aigc", "retrain", "digits-gan")
        assert error(done.stderr).startswith("error: its time limit is up")
        run, _, _ = last_run(project)
        assert (run["state_type"], run["state_name"]) == ("FAILED", "TimedOut")


def test_what_was_edited_while_it_waited_holds(project: Project, prefect_api: str) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    other = project.path / retraining.beside("digits-gan", "lock")
    other.parent.mkdir(parents=True)
    with FileLock(other):
        waiting = project.start("aigc", "retrain", "digits-gan")
        assert waiting.stdout is not None
        assert any("waiting for the retraining of digits-gan" in line for line in waiting.stdout)
        project.edit(lambda p: p["recipes"]["digits-gan"]["train"].update(stepz=1))
    wrong = "params.yaml: recipes.digits-gan.train.stepz: unknown key; did you mean 'steps'?"
    assert error(waiting.communicate()[0]) == f"error: {wrong}"


def test_a_branch_at_origin_whose_name_ends_alike_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    git("remote", "add", "origin", str(tmp_path))
    git("update-ref", "refs/heads/old/retrain/x", commit(git("write-tree"), [], "of somebody else"))
    assert retraining.fetched("retrain/x", lambda: None) == []
    assert retraining.tip_of("retrain/x") is None


def test_the_branch_is_brought_from_where_it_is_pushed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("upstream", "fork", "here"):
        git("init", "--quiet", name, place=tmp_path)
    git("remote", "add", "origin", str(tmp_path / "upstream"), place=tmp_path / "here")
    git("remote", "set-url", "--push", "origin", str(tmp_path / "fork"), place=tmp_path / "here")
    monkeypatch.chdir(tmp_path / "fork")
    git("update-ref", "refs/heads/retrain/x", commit(git("write-tree"), [], "of another machine"))
    tip = retraining.tip_of("retrain/x")
    monkeypatch.chdir(tmp_path / "here")
    assert retraining.fetched("retrain/x", lambda: None) == []
    assert retraining.tip_of("retrain/x") == tip


def test_what_git_says_is_its_reason_and_no_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    with pytest.raises(UserError, match=r"^git ls-remote: '/gone.git' does not appear to be a git repository$"):
        git("ls-remote", "/gone.git")


def test_git_speaks_english_where_its_words_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of one that only says what it would speak: git's translations are not installed everywhere."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "git").touch(0o755)
    (tmp_path / "git").write_text('#!/bin/sh\necho "$LC_ALL:$LANGUAGE"\n')
    assert git("status") == "C.UTF-8:"


def test_a_full_disk_is_said_with_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "git").touch(0o755)
    for said in (
        "error: unable to write file README.md",
        "fatal: cannot create directory at 'x': No space left on device",
    ):
        (tmp_path / "git").write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 128\n')
        with pytest.raises(UserError, match="; free some disk space, then run the same command again"):
            git("worktree", "add", "x")
    (tmp_path / "git").write_text("#!/bin/sh\necho 'error: unable to write file x: Permission denied' >&2\nexit 128\n")
    with pytest.raises(UserError, match=r"Permission denied$"):
        git("worktree", "add", "x")


def test_of_a_branch_here_and_at_origin_the_newer_one_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    (tmp_path / "file").write_text("x")
    git("add", "file")
    tree, commits = git("write-tree"), list[str]()
    for number in range(3):
        commits.append(commit(tree, commits[-1:], str(number)))
    git("update-ref", "HEAD", commits[0])
    for local, remote, offered in ((1, 2, "origin/retrain/x"), (2, 1, "retrain/x"), (2, 2, "retrain/x")):
        git("update-ref", "refs/heads/retrain/x", commits[local])
        git("update-ref", "refs/remotes/origin/retrain/x", commits[remote])
        assert retraining.ahead() == {"x": offered}
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/grün.yaml").touch()
    git("update-ref", "refs/heads/retrain/x", commit(tree, [commits[0]], "result"))
    assert retraining.merging("retrain/x").startswith("git add recipes && git commit ")
