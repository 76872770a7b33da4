"""Processes that end with the process they serve, however that one ends.

A flow starts DVC, DVC starts a shell, the shell starts a stage. Signals do not travel down that chain: SIGTERM to DVC
leaves the stage running, and SIGKILL to the flow leaves everything running. Two links close the gaps:

- ``spawn`` starts a child in a session of its own that holds the read end of a pipe; when the parent is gone, for
  whatever reason, the pipe ends and the child kills its whole process group.
- ``end_with_dvc``, called by a stage, watches the DVC process that started it, since DVC passes no pipe on.
"""

from __future__ import annotations

import os
import queue
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

PIPE = subprocess.PIPE
PULSE = 1.0  # seconds
PATIENCE = 10.0  # seconds a process group gets between SIGTERM and SIGKILL
GRACE = 3.0  # seconds a stage gets between SIGTERM and SIGKILL when its DVC is gone, and git
RUN = "PREFECT__FLOW_RUN_ID"  # set by Prefect for a flow run's process
WATCH = 0.3  # seconds between two looks at the DVC process


def spawn(
    module: str, *arguments: str, env: Mapping[str, str], output: int | None = None, cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start ``python -m module arguments`` as the leader of a session that does not outlive this process.

    ``output`` is where standard output and error go, as in ``subprocess.Popen``.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "aigc_tasks.lifeline", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        text=True,
        errors="replace",
        env={**env, "PYTHONUNBUFFERED": "1"},
        cwd=cwd,
        start_new_session=True,
    )


def follow(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    line: Callable[[str], None],
    pulse: Callable[[], None] = lambda: None,
) -> int:
    """``spawn`` it, and wait until it ends; returns its exit code. ``line`` gets each line of its output as it comes.

    ``pulse`` is called every ``PULSE`` seconds and may raise to stop the work. On any exception, KeyboardInterrupt and
    SystemExit included, the child and all below it are ended before the exception goes on.
    """
    child = spawn(module, *arguments, env=env, output=PIPE)
    try:
        for text in lines_of(child, pulse):
            line(text.rstrip())
        return child.wait()
    except BaseException:
        stop(child)
        raise


def lines_of(child: subprocess.Popen[str], pulse: Callable[[], None]) -> Iterator[str]:
    """The child's output line by line until it ends; ``pulse`` is called every ``PULSE`` seconds meanwhile."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert child.stdout is not None
        for text in child.stdout:
            lines.put(text)
        lines.put(None)

    threading.Thread(target=read, name="output", daemon=True).start()
    pulsed = time.monotonic()
    while True:
        try:
            text = lines.get(timeout=PULSE)
            if text is None:
                return
            yield text
        except queue.Empty:
            pass
        if time.monotonic() - pulsed >= PULSE:
            pulsed = time.monotonic()
            pulse()


def acquire(lock: BaseFileLock, pulse: Callable[[], None]) -> None:
    """Have the lock, however long another process holds it. ``pulse`` is called every second, and may raise to stop."""
    while not lock.is_locked:
        pulse()
        with suppress(TimeoutError):  # filelock's own is one
            lock.acquire(timeout=PULSE)


def stop(child: subprocess.Popen[str]) -> None:
    """End the child and all that it started: SIGTERM to the group, SIGKILL to what is left after ``PATIENCE``."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE
        with suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        while (child.poll() is None or alive(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)


def end(child: subprocess.Popen[str]) -> None:
    """End a program that shares this process's terminal, git say, and what it has started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(sign)
            _, family = psutil.wait_procs(family, timeout=GRACE)


def alive(group: int) -> bool:
    """Whether any process of the group still runs; one that has ended but is not yet reaped does not."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def end_with_dvc() -> None:
    """End this process when the DVC process that runs it as a stage has ended, also if it has by now.

    Does nothing outside DVC.
    """
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    def adopts(process: psutil.Process) -> bool:
        """Whether orphans are given to it: it is not DVC, then, which shares its session with its stages."""
        try:
            if process.pid == 1:  # of a container: perhaps DVC, perhaps in DVC's session
                return "dvc" not in " ".join(process.cmdline())
            return os.getsid(process.pid) != os.getsid(0)
        except (psutil.Error, OSError):
            return True

    parent = psutil.Process().parent()
    watched, between = [], True
    while parent is not None:
        watched.append(parent)
        try:
            between = parent.name() in {"sh", "bash", "dash", "zsh", "ksh", "fish"}  # those that do not exec
            parent = parent.parent() if between else None
        except psutil.NoSuchProcess:
            break
    if between or adopts(watched[-1]):
        sys.exit("error: the DVC that began this stage has ended; run `dvc repro` again")

    def gone(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def watch() -> None:
        first = os.getppid()
        while os.getppid() == first and not any(gone(process) for process in watched):
            time.sleep(WATCH)
        os.kill(os.getpid(), signal.SIGTERM)  # time to say in MLflow that it was killed
        time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-dvc", daemon=True).start()


def end_with_runner() -> None:
    """In a flow run that Prefect's runner or worker has started: be killed when that process is gone.

    What it was doing has a checkpoint; the next start goes on from there. Nothing in a process that a person started.
    """
    if RUN not in os.environ:
        return
    first = os.getppid()

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(WATCH)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-runner", daemon=True).start()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block has ended: a process whose start is broken off has nothing to read and
    says so by a traceback. What is started in here never hears Ctrl-C, which every process of a terminal is sent.
    """
    came: list[int] = []
    signs = signal.SIGINT, signal.SIGTERM
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = {sign: signal.signal(sign, lambda number, _: came.append(number)) for sign in signs}
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for sign, handler in before.items():
            signal.signal(sign, handler)
        for number in came:
            signal.raise_signal(number)


def end_with_parent(parent: int) -> None:
    """In a worker process: end when the process that started it has ended; leave Ctrl-C to that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def main() -> None:
    """In the child: hold the pipe, hand on an empty standard input, and become the module."""
    pipe = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)

    def end_with_pipe() -> None:
        while os.read(pipe, 1024):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_pipe, name="end-with-parent", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
