"""Worktrees of git beside the checkout: the project as it is or was, in a folder where nobody is disturbed.

They share git's objects with the checkout, and DVC's cache with its run cache: what was made once in any of them is
restored in the others.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from aigc_tasks import layout, lifeline, stage
from aigc_tasks.errors import UserError

MADE_WITH = ("aigc_tasks", "dvc.yaml", "params.yaml")  # what must be in git for a training to be repeated
OURS = ("aigc_tasks", "flows", "recipes", "dvc.yaml", "dvc.lock", "params.yaml", "reports")  # taken though untracked
CAUSES = ("fatal: ", "error: ", " ! [")  # how the line begins in which git says what is wrong; advice may follow
FULL = re.compile(r"No space left on device|unable to write [^:]*$")  # of a file that it could begin it says no more
NOBODY = {"NAME": "aigc", "EMAIL": "aigc@localhost"}  # commits where git knows no user


def git(
    *arguments: str,
    place: Path | None = None,
    env: Mapping[str, str] | None = None,
    pulse: Callable[[], None] = lambda: None,
) -> str:
    """What a git command prints; raises ``UserError`` with the line that says why where it fails.

    ``pulse`` is called every second, and may raise to stop it: another machine may never answer. Of the user's hooks
    only that for a push is called: the others, of ``dvc install`` say, are for a checkout with all its data.
    """
    hooks = [] if arguments[0] == "push" else ["-c", f"core.hooksPath={os.devnull}"]
    try:
        child = subprocess.Popen(
            ["git", *hooks, *arguments],
            cwd=place,
            env={**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "", **(env or {})},  # its words are read
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        raise UserError("git is not installed, which keeps what was made; install it") from None
    with child:
        try:
            output, errors = waited(child, pulse)
        except BaseException:
            lifeline.end(child)
            raise
    if child.returncode:
        said = errors.rstrip().splitlines() or ["no word"]
        why = next((line for line in said if line.startswith(CAUSES)), said[-1])
        mend = f"; {stage.MENDS[errno.ENOSPC]}" if FULL.search(why) else ""
        raise UserError(f"git {arguments[0]}: {' '.join(why.split()).removeprefix('fatal: ')}{mend}")
    return output.strip()


def waited(child: subprocess.Popen[str], pulse: Callable[[], None]) -> tuple[str, str]:
    while True:
        try:
            return child.communicate(timeout=lifeline.PULSE)
        except subprocess.TimeoutExpired:
            pulse()


def snapshot() -> str:
    """A commit of the checkout as it is now, what is not committed included; HEAD itself if that is all.

    The checkout, its index and its branches stay as they are. The same state gives the same commit.
    """
    try:
        head = git("rev-parse", "--verify", "HEAD")
    except UserError:
        raise UserError("git has no commit of this project yet; make one: git add -A && git commit -m start") from None
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch, "index")
        shutil.copyfile(git("rev-parse", "--git-path", "index"), index)
        env = {"GIT_INDEX_FILE": str(index)}
        git("add", "--update", env=env)
        git("add", "--all", "--", *(name for name in OURS if Path(name).exists()), env=env)
        tree = git("write-tree", env=env)
    if tree == git("rev-parse", "HEAD^{tree}"):
        return head
    when = git("show", "--no-patch", "--format=%cI", "HEAD")
    return commit(tree, [head], "What was not committed when a retraining began", when)


def commit(tree: str, parents: list[str], message: str, when: str | None = None) -> str:
    """A commit on no branch yet, by the user whom git knows, or else by nobody."""
    env = {f"GIT_{who}_DATE": when for who in ("AUTHOR", "COMMITTER")} if when else {}
    for key, value in NOBODY.items():
        try:
            git("config", f"user.{key.lower()}")
        except UserError:
            env |= {f"GIT_{who}_{key}": os.environ.get(f"GIT_{who}_{key}", value) for who in ("AUTHOR", "COMMITTER")}
    above = [option for parent in parents for option in ("-p", parent)]
    return git("commit-tree", tree, *above, "-m", message, env=env)


def put(place: Path, revision: str) -> Path:
    """The project at a revision in the worktree ``place``, which is made unless it is there; returns the project.

    What a kill or a move has left half-done is mended; what git ignores (data, checkpoints) stays.
    """
    if place.exists() and belongs(place) is None:
        with suppress(UserError):
            git("worktree", "repair", str(place.resolve()))  # the checkout was moved
    if place.exists() and not belongs(place):
        shutil.rmtree(place)  # above all one that a copy of the checkout has from the original, and must not work in
    if not place.exists():
        git("worktree", "prune")
        git("worktree", "add", "--detach", "--quiet", str(place), revision)
    else:
        Path(git("rev-parse", "--absolute-git-dir", place=place), "index.lock").unlink(missing_ok=True)  # of the killed
        git("checkout", "--detach", "--force", "--quiet", revision, place=place)
    return place / git("rev-parse", "--show-prefix")


def belongs(place: Path) -> bool | None:
    """Whether it is a worktree of this checkout's repository; None if it has lost its repository."""
    try:
        top, common = git("rev-parse", "--show-toplevel", "--git-common-dir", place=place).splitlines()
    except UserError:
        return None
    here = git("rev-parse", "--git-common-dir")
    return Path(top) == place.resolve() and Path(place, common).resolve() == Path(here).resolve()


@contextmanager
def temporary(revision: str) -> Iterator[Path]:
    """The project at that commit, in a folder that is gone afterwards; raises ``UserError`` if git cannot give it."""
    layout.LOCAL.mkdir(exist_ok=True)
    # Here, for the way from elsewhere to DVC's cache may hold any name: see `share_cache`.
    with tempfile.TemporaryDirectory(dir=layout.LOCAL.resolve()) as scratch:
        place = Path(scratch, "worktree")
        try:
            project = put(place, revision)
        except UserError as error:
            raise UserError(f"git cannot give commit {revision[:12]}: {error}; fetch it if it is not here") from None
        try:
            yield project
        finally:
            shutil.rmtree(place, ignore_errors=True)
            git("worktree", "prune")


def share_cache(project: Path, **options: str) -> None:
    """Let DVC in the worktree use the checkout's cache and remotes, relative ones too; ``options`` of the cache."""
    from dvc.config import Config
    from dvc.config import merge as add
    from dvc.config_schema import RelPath

    ours = Config(".dvc")
    with Config(str(project.resolve() / ".dvc")).edit("local") as local:
        local.clear()  # what it was told where the checkout lay before it was moved
        for level in ("repo", "local"):
            add(local, ours.load_one(level))
        cache = Path(local["cache"].get("dir", ".dvc/cache")).resolve()
        local["cache"]["dir"] = RelPath(cache)  # DVC writes ASCII alone, and a whole path may hold any name
        local["cache"] |= options
