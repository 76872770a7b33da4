"""Retrainings that share what came out: git's branch at ``origin``, the data in DVC's remote."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, error, wait_for
from real_servers import KEYS, s3
from test_retrain import at_work, kept, last_run

pytestmark = pytest.mark.slow


def pushing(project: Project, origin: Path) -> None:
    """Give it a remote of git's, to which it pushes."""
    project.check("git", "init", "-q", "--bare", str(origin))
    project.check("git", "remote", "add", "origin", str(origin))
    project.edit(lambda p: p["recipes"]["digits-gan"].update(schedule={"push": True}))


def refused(project: Project) -> str:
    done = project.run("aigc", "retrain", "digits-gan")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return error(done.stderr)


def test_a_remote_that_is_missing_or_lets_nobody_in_is_one_line(trained: Project, tmp_path: Path) -> None:
    pushing(trained, tmp_path / "origin.git")
    why = refused(trained)
    assert why.startswith("error: params.yaml: schedule.push: DVC has no default remote to push to; add one: dvc")
    trained.check("dvc", "remote", "add", "--default", "store", "s3://dvc/project")
    with s3(tmp_path / "buckets") as url:
        trained.env |= {**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_ENDPOINT_URL": url}
        why = "no permission (Forbidden); set credentials in the environment"
        assert refused(trained) == f"error: DVC's remote store (s3://dvc/project): {why}"
    assert "connection refused; check the network, and its address: dvc remote list" in refused(trained)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and answers none
        trained.env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert_ends_in_time(trained, "aigc_tasks.sharing")


def assert_ends_in_time(project: Project, waiting: str) -> None:
    """A retraining with a time limit, of whose processes one waits for a machine that does not answer."""
    project.edit(lambda p: p["recipes"]["digits-gan"]["schedule"].update(time_limit=0.25))
    retraining = project.start("aigc", "retrain", "digits-gan")
    wait_for(lambda: at_work(project, waiting), by=retraining)
    said, _ = retraining.communicate()
    assert (retraining.returncode, error(said)) == (
        1,
        "error: its time limit is up; the next retraining goes on where it was",
    )
    run, _, _ = last_run(project)
    assert (run["state_type"], run["state_name"]) == ("FAILED", "TimedOut")
    assert at_work(project, waiting) is None
    project.edit(lambda p: p["recipes"]["digits-gan"]["schedule"].pop("time_limit"))


def test_what_parted_from_origin_is_joined(trained: Project, tmp_path: Path) -> None:
    """Another machine pushes while this one cannot: neither's result is lost, and the next start is not refused."""
    hook = tmp_path / "origin.git/hooks/pre-receive"
    pushing(trained, tmp_path / "origin.git")
    trained.check("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    other = trained.copied(tmp_path / "other")
    for seed, project in enumerate((trained, other), start=1):
        project.edit(lambda p, seed=seed: p["recipes"]["digits-gan"]["postprocess"].update(seed=seed))
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    rejected = "retrain/digits-gan -> retrain/digits-gan (pre-receive hook declined)"
    assert refused(trained) == f"error: git push: ! [remote rejected] {rejected}"
    hook.unlink()
    other.check("aigc", "retrain", "digits-gan")
    here, there = (project.check("git", "rev-parse", "retrain/digits-gan").strip() for project in (trained, other))
    result = kept(trained)
    assert "nothing has changed" in trained.check("aigc", "retrain", "digits-gan")
    trained.check("git", "fetch", "-q", "origin")
    assert trained.check("git", "rev-parse", "origin/retrain/digits-gan^2", "origin/retrain/digits-gan^3").split() == [
        here,
        there,
    ]
    assert kept(trained) == result


def test_what_came_out_while_origin_went_away_is_kept_here(trained: Project, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    pushing(trained, tmp_path / "origin.git")
    trained.check("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    trained.edit(lambda p: p["recipes"]["digits-gan"]["postprocess"].update(seed=1))
    answers.write_text(f'#!/bin/sh\nmkdir {tmp_path}/asked && exec git-upload-pack "$@"\n')  # once
    answers.chmod(0o755)
    trained.check("git", "config", "remote.origin.uploadpack", str(answers))
    assert refused(trained).startswith("error: git ls-remote: ")
    result = kept(trained)
    assert result["postprocess@digits-gan"] != trained.lock()["postprocess@digits-gan"]
    answers.write_text("#!/bin/sh\nexec sleep 3600\n")
    assert_ends_in_time(trained, "sleep 3600")
    assert kept(trained) == result

    def add_another(params: Any) -> None:
        params["recipes"]["another"] = {**params["recipes"]["digits-gan"], "schedule": {"time_limit": 0.01}}

    trained.edit(add_another)
    answers.write_text("#!/bin/sh\nexec sleep 90\n")
    waiting = trained.start("aigc", "retrain", "digits-gan")
    wait_for(lambda: at_work(trained, "sleep 90"), by=waiting)
    assert trained.run("aigc", "retrain", "another").returncode == 1
    assert at_work(trained, "sleep 90"), "one that does not push need not wait for it"
    waiting.terminate()
    waiting.communicate()
    trained.check("git", "config", "--unset", "remote.origin.uploadpack")
    assert "nothing has changed" in trained.check("aigc", "retrain", "digits-gan")
    assert kept(trained) == result
    there = trained.check("git", "ls-remote", "origin", "refs/heads/retrain/digits-gan")
    assert there.split()[0] == trained.check("git", "rev-parse", "retrain/digits-gan").strip()
    user = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
    trained.check("git", "add", "reports", "dvc.lock")
    trained.check(*user, "commit", "-qam", "as it is")
    trained.check(*user, "merge", "-q", "-X", "theirs", "retrain/digits-gan")
    trained.check("git", "push", "-q", "origin", "--delete", "retrain/digits-gan")  # merged: it has done its work
    assert "nothing has changed" in trained.check("aigc", "retrain", "digits-gan")
    assert not trained.check("git", "ls-remote", "origin", "refs/heads/retrain/digits-gan")
