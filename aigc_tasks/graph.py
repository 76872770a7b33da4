"""DVC's graph: which stages a recipe has, which are stale and why, what a stage's inputs are, and running one.

``dvc.yaml`` alone says what depends on what. This module reads it through DVC and runs its stages through DVC.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_tasks import layout, lifeline
from aigc_tasks.errors import UserError
from aigc_tasks.progress import PIPED, read_mark

if TYPE_CHECKING:
    from dvc.repo import Repo

HINTS = (
    "To track the changes",
    "git add",
    "To enable auto staging",
    "dvc config",
    "Use `dvc push`",
    "Updating lock file",
    "Generating lock file",
)
MOST = 4  # reasons named before "and … more"
NEVER = "never run"
WORDS = {"deleted": "is missing", "not in cache": "is not in DVC's cache (dvc pull)"}
STEPS = ("acquire", "clean", "train", "postprocess", "evaluate")


def stages(recipe: str, dataset: str) -> dict[str, list[str]]:
    """The DVC stages of each step of a recipe; the judge of a data set is trained where it is first needed."""
    return {
        "acquire": [f"acquire@{dataset}"],
        "clean": [f"clean@{dataset}"],
        "train": [f"train@{recipe}"],
        "postprocess": [f"features@{dataset}", f"postprocess@{recipe}"],
        "evaluate": [f"evaluate@{recipe}"],
    }


def targets(recipe: str, dataset: str) -> list[str]:
    """All of them, in order."""
    return [target for some in stages(recipe, dataset).values() for target in some]


def open_repo() -> Repo:
    """DVC's view of this project; raises ``UserError`` where ``dvc.yaml`` or the folder is not in order."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo()
    except DvcException as error:
        raise UserError(f"dvc: {one_line(error)}; run `dvc status` to see more") from None
    release_dead_locks(repo)
    return repo


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def release_dead_locks(repo: Repo) -> list[str]:
    """Take the locks of DVC processes that were killed out of DVC's lock file; returns who holds the others.

    DVC does so itself, but not while the killed process is a zombie or its number has been given to another process,
    and not when it was killed while writing that file.
    """
    from dvc.lock import make_lock

    guard = Path(repo.tmp_dir or ".dvc/tmp", "rwlock.lock")
    hardlink = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(guard), tmp_dir=str(guard.parent), hardlink_lock=hardlink):
        path = guard.with_name("rwlock")
        try:
            locks = json.loads(path.read_text())
        except FileNotFoundError:
            return []
        except ValueError:
            path.unlink()
            return []
        holders: dict[int, str] = {}
        for paths in locks.values():
            for name, infos in list(paths.items()):
                living = [info for info in (infos if isinstance(infos, list) else [infos]) if info and is_alive(**info)]
                others = {info["pid"] for info in living} - {os.getpid()}
                holders |= {pid: f"dvc (process {pid})" for pid in others}
                if not living:
                    del paths[name]
                elif isinstance(infos, list):
                    paths[name] = living
        layout.replace(path, json.dumps(locks))
    return list(holders.values())


def is_alive(pid: int, cmd: str) -> bool:
    """Whether the process runs, and is still the one whose command DVC noted; ours, which use it as a library, too.

    The arguments tell: the first word is noted as a path where Python runs a module.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        arguments = cmd.partition(" ")[2]
        return process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()).endswith(arguments)
    except psutil.Error:
        return False


def busy() -> list[str]:
    """The DVC processes that are at work in this folder, for example one started by hand."""
    return release_dead_locks(open_repo())


def collected(repo: Repo, targets: list[str]) -> list[Any]:
    """DVC's stages, by one reading of ``dvc.yaml`` and ``dvc.lock``: DVC's own way reads both for every target."""
    from dvc.dvcfile import load_file

    known = load_file(repo, "dvc.yaml").stages
    return [known[target] for target in targets]


def stale(targets: list[str]) -> dict[str, str]:
    """Which of the stages differ from what ``dvc.lock`` records, each with the reason, in the order of ``targets``.

    A stage after a stale one is not listed for that alone: whether it must run shows when its inputs are there. Ask for
    those of several recipes at once: to read ``dvc.lock`` takes longer than to look at what one recipe has.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import lock_repo

    repo, status = open_repo(), {}
    targets = list(dict.fromkeys(targets))  # recipes share the stages of their data
    try:
        with lock_repo(repo):
            stages = collected(repo, targets)
        for stage in stages:
            with lock_repo(repo):  # each by itself: who waits for DVC's lock gives up after three seconds
                status.update(stage.status())
    except LockError:
        raise UserError(f"{', '.join(busy()) or 'dvc'} is at work in this folder; wait for it to end") from None
    except DvcException as error:
        raise UserError(f"dvc.yaml: {one_line(error)}") from None
    return {target: reason(status[target]) for target in targets if target in status}


def reason(changes: list[Any]) -> str:
    """DVC's account of a stage's changes, in words."""
    said: list[str] = []
    for change in changes:
        if isinstance(change, str):
            said.append({"always changed": "always runs"}.get(change, change))
            continue
        for kind, paths in change.items():
            for path, state in paths.items():
                if (path, state) == (str(layout.PARAMS), "new"):
                    return NEVER  # dvc.lock knows none of its parameters
                if isinstance(state, dict):
                    said += [f"{key} {'is new' if was == 'new' else was}" for key, was in state.items()]
                else:
                    said.append(f"{path} {WORDS.get(state) or ('changed' if kind else state)}")
    more = len(said) - MOST
    return ", ".join(said[:MOST]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Inputs:
    """What a stage is about to read, hashed by DVC."""

    fingerprint: str
    hashes: dict[str, str]  # path: DVC's hash
    recorded: bool  # dvc.lock already holds a finished execution with exactly these inputs


def inputs(target: str) -> Inputs:
    """The inputs of a stage as they are in the working tree now."""
    repo = open_repo()
    (found,) = collected(repo, [target])
    current, hashes = {}, {}
    recorded = not found.cmd_changed
    for dependency in found.deps:
        value = dependency.get_hash().value
        recorded = recorded and dependency.hash_info.value == value
        current[str(dependency)] = value
        if isinstance(value, str):
            hashes[str(dependency)] = value
    facts = json.dumps([found.cmd, current], sort_keys=True)
    return Inputs(hashlib.sha256(facts.encode()).hexdigest(), hashes, recorded)


def recorded_hashes(targets: list[str]) -> dict[str, str]:
    """DVC's hash of every output of these stages, from ``dvc.lock``."""
    repo = open_repo()
    outputs = [output for stage in collected(repo, targets) for output in stage.outs]
    return {str(output): output.hash_info.value for output in outputs if output.hash_info}


def digest(path: Path) -> str:
    """DVC's hash of a file or folder, from its bytes."""
    if path.is_file():
        with open(path, "rb") as content:
            return hashlib.file_digest(content, "md5").hexdigest()
    entries = []
    for file in path.rglob("*"):
        relative = file.relative_to(path)
        if file.is_file() and "__pycache__" not in relative.parts:
            entries.append((relative.parts, {"md5": digest(file), "relpath": relative.as_posix()}))
    listing = json.dumps([entry for _, entry in sorted(entries, key=lambda entry: entry[0])], sort_keys=True)
    return f"{hashlib.md5(listing.encode()).hexdigest()}.dir"  # noqa: S324 (DVC's hash)


class StageFailed(Exception):
    """A stage ended with an error. ``mendable`` if its own message says what the user must change first."""

    def __init__(self, message: str, mendable: bool) -> None:
        super().__init__(message)
        self.mendable = mendable


def run(
    targets: list[str],
    line: Callable[[str], None],
    bar: Callable[[int, int, str], None] | None = None,
    extra: dict[str, str] | None = None,
    pulse: Callable[[], None] = lambda: None,
    force: bool = False,
) -> str:
    """``dvc repro --single-item`` of the stages in a child process; returns "ran", "restored" or "skipped".

    ``force`` runs them also if they are up to date, as a data set must be whose source DVC does not watch.

    ``line`` gets each line of output as it comes, ``bar`` the progress of the stage; ``pulse`` is called every second
    and may raise to stop the work. On any exception, KeyboardInterrupt and SystemExit included, the child and all
    below it are ended before the exception goes on. Raises ``StageFailed``.
    """
    env = {**os.environ, **(extra or {})}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    env.pop("MLFLOW_RUN_ID", None)
    env.pop(PIPED, None)
    if bar is not None:
        env[PIPED] = "1"
    options = ["--single-item", "--force"] if force else ["--single-item"]
    outcome, errors = "skipped", []

    def hear(text: str) -> None:
        nonlocal outcome
        mark = read_mark(text)
        if mark is not None:
            if bar is not None:
                bar(*mark)
            return
        if text.startswith("Running stage"):
            outcome = "ran"
        elif "is cached - skipping run" in text and outcome == "skipped":
            outcome = "restored"
        if text.startswith(("error: ", "ERROR: ")):
            errors.append(text.split(": ", 1)[1])
        if text and not text.lstrip().startswith(HINTS):
            line(text)

    code = lifeline.follow("dvc", "repro", *options, *targets, env=env, line=hear, pulse=pulse)
    if code != 0:
        own = [error for error in errors if not error.startswith("failed to reproduce")]
        message = (own or errors or [f"dvc ended with code {code}"])[0]
        raise StageFailed(f"{', '.join(targets)}: {message}", mendable=bool(own))
    return outcome
