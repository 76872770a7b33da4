"""Kills and a full disk while data is taken in and cleaned: nothing is left running or half-written."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TIMEOUT, Project
from folders import add, manifest
from pictures import encoded, photograph

from aigc_tasks.acquire import raw
from aigc_tasks.clean import looking

pytestmark = pytest.mark.slow

MANY = 6000  # files: enough that several processes look at them, also when some chunks are finished


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of many small files."""
    place = tmp_path_factory.mktemp("many")
    for n in range(MANY):
        (place / f"{n:04d}.png").write_bytes(encoded(photograph(n, 24)))
    return place


def acquired(project: Project, place: Path) -> Project:
    add(project, place, size=None)
    project.env |= {"AIGC_WORKERS": "2", "AIGC_PROGRESS": "1"}
    project.check(sys.executable, "-m", "aigc_tasks.acquire", "wild")
    return project


def new_chunks(output: str) -> int:
    """How many chunks had to be looked at, by the last progress line."""
    line = [line for line in output.splitlines() if "chunks new" in line][-1]
    return int(line.split(" of ")[0].split()[-1])


def written(project: Project) -> dict[str, bytes]:
    places = [*(project.path / "data/clean/wild").iterdir(), project.path / "reports/data/wild.html"]
    return {file.name: file.read_bytes() for file in places}


def looked_at(project: Project) -> int:
    """Chunks that are finished."""
    return len(list((project.path / ".aigc/clean/wild").glob("[0-9a-f]*.parquet")))


def words(output: str) -> list[str]:
    """The lines that tell of no progress."""
    return [line for line in output.split("\n") if line and not line.startswith("\x1e") and "chunks new" not in line]


def unfinished(project: Project) -> list[Path]:
    """What was left half-written, other than acquire's own state, which its next run goes on with."""
    return [file for name in ("data", "reports", ".aigc/clean") for file in (project.path / name).rglob("*.unfinished")]


def kill_when(project: Project, condition: Callable[[], Any]) -> list[psutil.Process]:
    """Start cleaning, kill it as soon as the condition holds; returns its children of that moment."""
    process = project.start(sys.executable, "-m", "aigc_tasks.clean", "wild", stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return children


def test_a_killed_cleaning_leaves_nothing_running_and_goes_on(
    new_project: Callable[[str], Project], many: Path
) -> None:
    calm, killed = (acquired(new_project(name), many) for name in ("calm", "killed"))
    total = new_chunks(calm.check(sys.executable, "-m", "aigc_tasks.clean", "wild"))
    assert total >= 5

    moments: list[Callable[[int], Any]] = [
        lambda before: looked_at(killed) > before,
        lambda before: looked_at(killed) > before,
        lambda before: (killed.path / "data/clean/.wild.unfinished").exists(),
    ]
    for moment in moments:
        before = looked_at(killed)
        children = kill_when(killed, lambda moment=moment, before=before: moment(before))
        assert children or (total - before) * raw.GROUP_ROWS <= looking.FEW + raw.GROUP_ROWS
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
        assert not (killed.path / "data/clean/wild").exists()
    finished = looked_at(killed)
    assert finished == total
    assert new_chunks(killed.check(sys.executable, "-m", "aigc_tasks.clean", "wild")) == total - finished
    assert written(killed) == written(calm)
    assert unfinished(killed) == []


@pytest.mark.parametrize(
    ("moment", "sign", "code"),
    [
        ("its processes start", signal.SIGINT, 130),
        ("they look", signal.SIGTERM, 143),
        ("arrays are written", signal.SIGINT, 130),
    ],
)
def test_ctrl_c_and_sigterm_end_cleaning_without_words(
    new_project: Callable[[str], Project], many: Path, moment: str, sign: signal.Signals, code: int
) -> None:
    project = acquired(new_project("stopped"), many)
    hear = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # what runs in the background does not
    process = project.start(
        *(sys.executable, "-m", "aigc_tasks.clean", "wild"), start_new_session=True, preexec_fn=hear
    )
    come: dict[str, Callable[[], bool]] = {
        "its processes start": lambda: len(psutil.Process(process.pid).children()) == 3,  # and a tracker
        "they look": lambda: looked_at(project) > 0,
        "arrays are written": lambda: (project.path / "data/clean/.wild.unfinished/train.npy").exists(),
    }
    deadline = time.monotonic() + TIMEOUT
    while not come[moment]():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    children = psutil.Process(process.pid).children()
    seen = looked_at(project)
    os.killpg(process.pid, sign) if sign == signal.SIGINT else process.send_signal(sign)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert words(output) == []
    assert psutil.wait_procs(children, timeout=TIMEOUT)[1] == []
    assert looked_at(project) <= seen + 2  # at once: what they had been given is four each
    assert list((project.path / "data/clean").glob("*")) == []


@pytest.mark.parametrize(("stage", "limit"), [("acquire", 300_000), ("clean", 300_000), ("clean", 3_000_000)])
def test_a_full_disk_is_one_line_and_nothing_half_written(project: Project, many: Path, stage: str, limit: int) -> None:
    acquired(project, many) if stage == "clean" else add(project, many, size=None)
    outputs = [project.path / "data/raw/wild", project.path / "data/clean/wild"]
    if limit < 1_000_000:  # what looking finds in a chunk has room beyond, and the report comes before the arrays
        outputs.append(project.path / "reports/data/wild.html")
    before = {place: place.exists() for place in outputs}

    process = project.start(
        *(sys.executable, "-m", f"aigc_tasks.{stage}", "wild"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    output, _ = process.communicate(timeout=TIMEOUT)
    lines = words(output)
    assert process.returncode == 1
    assert len(lines) == 1, output
    assert lines[0].startswith("error: ")
    assert "File too large" in lines[0]
    assert {place: place.exists() for place in outputs} == before
    assert unfinished(project) == []

    for name in ("acquire", "clean"):  # now there is room
        project.check(sys.executable, "-m", f"aigc_tasks.{name}", "wild")
    assert len(manifest(project)) == MANY
