"""Processes end with the process they serve, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from aigc_tasks import lifeline
from aigc_tasks.progress import read_mark

SLEEPER = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); print('up', flush=True); time.sleep(600)"


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that starts a child of its own and sleeps."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return "sleeper"


def test_stop_ends_the_child_and_its_children(sleeper: str) -> None:
    child = lifeline.spawn(sleeper, env=os.environ, output=lifeline.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    lifeline.stop(child)
    assert not lifeline.alive(child.pid)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, sleeper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deaf.py").write_text("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER)
    monkeypatch.setattr(lifeline, "PATIENCE", 0.5)
    child = lifeline.spawn("deaf", env=os.environ, output=lifeline.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    lifeline.stop(child)
    assert not lifeline.alive(child.pid)


def test_a_killed_parent_takes_child_and_grandchild_along(sleeper: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", f"""
import os, time
from aigc_tasks import lifeline
child = lifeline.spawn({sleeper!r}, env=os.environ, output=lifeline.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    assert lifeline.alive(group)
    parent.kill()
    parent.wait()
    assert within(5, lambda: not lifeline.alive(group))


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_stage_ends_with_the_dvc_that_started_it(shell: str, tmp_path: Path) -> None:
    """DVC is SIGKILLed; between it and the stage stands a shell that did not exec."""
    watch = "import time; from aigc_tasks import lifeline; lifeline.end_with_dvc()"
    (tmp_path / "stage.py").write_text(f"{watch}; print('up', flush=True); time.sleep(600)")
    command = f"{sys.executable} {tmp_path}/stage.py; true"
    dvc = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run([{shell!r}, '-c', {command!r}])"],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
        env={**os.environ, "DVC_STAGE": "train@digits-gan", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert dvc.stdout is not None
    assert dvc.stdout.readline() == "up\n"
    dvc.send_signal(signal.SIGKILL)
    dvc.wait()
    assert within(5, lambda: not lifeline.alive(dvc.pid))


@pytest.fixture
def importing(tmp_path: Path) -> dict[str, str]:
    """The environment of a stage that never ends importing torch, and says that it began to."""
    (tmp_path / "torch.py").write_text("import time; print('up', flush=True); time.sleep(600)")
    return {**os.environ, "DVC_STAGE": "train@digits-gan", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


STAGE = f"{sys.executable} -m aigc_tasks.train digits-gan; true"


def test_a_stage_that_is_importing_ends_with_its_dvc(importing: dict[str, str]) -> None:
    program = f"import subprocess; subprocess.run([{STAGE!r}], shell=True)"
    dvc = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
        env=importing,
    )  # fmt: skip
    assert dvc.stdout is not None
    assert dvc.stdout.readline() == "up\n"
    dvc.kill()
    dvc.wait()
    assert within(10, lambda: not lifeline.alive(dvc.pid))


def test_a_stage_whose_dvc_was_gone_before_it_could_look_ends(importing: dict[str, str]) -> None:
    program = f"import subprocess; subprocess.Popen(['sleep 1; ' + {STAGE!r}], shell=True)"
    dvc = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, start_new_session=True,
        env=importing, timeout=60,
    )  # fmt: skip
    assert dvc.stderr == "error: the DVC that began this stage has ended; run `dvc repro` again\n"
    assert dvc.stdout == "", "nothing was imported"


def test_ctrl_c_while_a_stage_is_importing_is_no_traceback(importing: dict[str, str]) -> None:
    stage = subprocess.Popen(
        [sys.executable, "-m", "aigc_tasks.train", "digits-gan"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT, env=importing, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert stage.stdout is not None
    assert stage.stdout.readline() == "up\n"
    stage.send_signal(signal.SIGINT)
    assert stage.communicate()[1] == ""
    assert stage.returncode == 130


def test_progress_is_sparse_in_a_log_and_marked_for_a_bar(tmp_path: Path) -> None:
    program = """
from aigc_tasks.progress import progress
with progress("train x", 1000) as update:
    for done in range(1, 1001): update(done, "loss 1.0")
"""
    plain = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT)
    assert plain.count("\n") == 1
    assert plain.startswith("train x  1000/1000  loss 1.0")
    piped = subprocess.check_output(
        [sys.executable, "-c", program], text=True, cwd=ROOT, env={**os.environ, "AIGC_PROGRESS": "1"}
    )
    marks = [mark for mark in map(read_mark, piped.split("\n")) if mark]
    assert marks[-1] == (1000, 1000, "train x  loss 1.0")
    assert read_mark("an ordinary line") is None
