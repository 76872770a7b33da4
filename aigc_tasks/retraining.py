"""One retraining: whose turn it is, the worktree that it works in, and the branch that keeps what came out.

The user's checkout is read, never written. The worktree ``.aigc/retrain/RECIPE`` stays from one retraining to the next,
and with it the checkpoints of one that was killed. What came out is a commit on the branch ``retrain/RECIPE``: its
first parent is the project that was retrained, its tree the same with the new ``dvc.lock`` and ``reports/``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aigc_tasks import graph, layout, lifeline, lockfile, sharing, tracking, worktree
from aigc_tasks.errors import UserError
from aigc_tasks.lockfile import LOCK
from aigc_tasks.recipe import Recipe
from aigc_tasks.worktree import git

ORIGIN, BRANCHES = "origin", "retrain"
HELD = "Held"  # how a start ends that an event asked for while the recipe was paused


@dataclass(frozen=True)
class Note:
    """Who retrains a recipe; what a killed one leaves behind."""

    recipe: str
    pid: int
    flow_run: str | None
    began: str


def branch(recipe: str) -> str:
    return f"{BRANCHES}/{recipe}"


def beside(recipe: str, ending: str) -> Path:
    place = layout.retraining(recipe)
    return place.with_name(f"{place.name}.{ending}")


def untold(recipe: str) -> Path:
    """A file in the checkout that is there while something has come out that nobody was told of yet.

    In it stand the name and the message of the state that it ended in, once there is one.
    """
    return layout.outside(str(beside(recipe, "untold")))


def note(recipe: str) -> Note | None:
    """Of the retraining that is at work, or was when it was killed."""
    try:
        return Note(**json.loads(beside(recipe, "json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def at_work(recipe: str) -> bool:
    """Whether a living process retrains the recipe on this machine."""
    if not beside(recipe, "lock").exists():
        return False
    try:
        with FileLock(beside(recipe, "lock"), timeout=0):
            return False
    except Timeout:
        return True


def unfinished() -> list[Note]:
    """What was killed, and that nobody goes on with."""
    found = [note(path.stem) for path in sorted(beside("*", "json").parent.glob("*.json"))]
    return [one for one in found if one is not None and not at_work(one.recipe)]


def forget(recipe: str) -> None:
    """Nobody is to go on with what the note is about."""
    beside(recipe, "json").unlink(missing_ok=True)


@contextmanager
def turn(
    recipe: str, flow_run: str | None, wait: bool, say: Callable[[str], None], pulse: Callable[[], None]
) -> Iterator[tuple[str | None, Note | None]]:
    """While it is this process's turn, None; else, at once, why it is not. ``wait`` for one other at most.

    And the note of one that was killed or interrupted: it stays behind, so that somebody can go on. ``pulse`` is called
    every second of the wait, and may raise to end it.
    """
    beside(recipe, "lock").parent.mkdir(parents=True, exist_ok=True)
    lock, queue = (FileLock(beside(recipe, ending)) for ending in ("lock", "queue"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = note(recipe)
        who = f"process {other.pid}, since {other.began}" if other else "another process"
        if not wait:
            yield f"{recipe} is being retrained already ({who})", None
            return
        try:
            queue.acquire(timeout=0)
        except Timeout:
            yield f"{recipe} is being retrained ({who}), and another start waits for its end already", None
            return
        try:
            say(f"waiting for the retraining of {recipe} that is at work ({who})")
            lifeline.acquire(lock, pulse)
        finally:
            queue.release()  # now, for the next to wait
    try:
        left, mine = note(recipe), Note(recipe, os.getpid(), flow_run, datetime.now(UTC).isoformat(timespec="seconds"))
        layout.replace(beside(recipe, "json"), json.dumps(mine.__dict__))
        try:
            yield None, left
        except Exception:  # it has ended, unlike after KeyboardInterrupt and SIGTERM
            forget(recipe)
            raise
        forget(recipe)
    finally:
        lock.release()


@contextmanager
def workplace(settings: Recipe, pulse: Callable[[], None]) -> Iterator[Workplace]:
    """Work in the recipe's worktree, with the checkout's code, parameters, data and newest results.

    To be used within ``turn``. ``pulse`` is called every second while other machines are waited for, and may raise to
    end that. Raises ``UserError``.
    """
    push = settings.schedule is not None and settings.schedule.push
    if push:
        with sharing.shared():
            pass  # what is missing is said now, not after a training
    own = branch(settings.name)
    there = git("for-each-ref", "--format=%(worktreepath)", f"refs/heads/{own}")
    if there and Path(there).exists():  # this checkout, or another folder of its repository
        raise UserError(f"{there} is on branch {own}, which a retraining writes; go to another: git switch main")
    if git("branch", "--list", BRANCHES):  # git would say so when all is trained
        raise UserError(f"branch {BRANCHES} stands where {own} is to be; rename it: git branch --move {BRANCHES} NAME")
    if push:
        fetched(own, pulse)
    with FileLock(beside("all", "git")):  # two at once would stand in each other's way in git's files
        base, tip = worktree.snapshot(), tip_of(own)
        lockfile.teach_git()
        before: dict[str, Any] = {}
        with suppress(UserError):  # a kill has left half of it
            before = lockfile.stages(layout.retraining(settings.name) / git("rev-parse", "--show-prefix"))
        project = worktree.put(layout.retraining(settings.name), base)
    worktree.share_cache(project)
    last = base if tip is None or is_ancestor(tip, base) else tip
    work = Workplace(settings, base, last, push, pulse)
    environment = {layout.CHECKOUT: str(Path.cwd()), tracking.NAMED: tracking.tracking_uri()}
    kept = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with chdir(project):
            work.furnish(before)
            yield work
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Workplace:
    """The worktree, in which this process is."""

    settings: Recipe
    base: str  # the commit of the project that is retrained
    last: str  # the branch's tip; but `base` where that comes after it, and may have taken back what it brought
    push: bool
    pulse: Callable[[], None]

    @property
    def targets(self) -> list[str]:
        return graph.targets(self.settings.name, self.settings.dataset.name)

    def furnish(self, before: dict[str, Any]) -> None:
        """Results of the branch where they are newer than the checkout's, and from DVC's cache what belongs to them.

        ``before`` is what ``dvc.lock`` said here when the last retraining ended, however it did.
        """
        ours = self.own(lockfile.stages_at(self.base))
        if self.last != self.base:
            theirs, known = lockfile.stages_at(self.last), lockfile.stages_at(f"{self.last}^1")
            newer = [at for at in self.targets if at in theirs and ours.get(at) == known.get(at) != theirs[at]]
            ours |= {target: theirs[target] for target in newer}
            if f"evaluate@{self.settings.name}" in newer:
                self.restore_reports()
        lockfile.write(ours)
        made = [out["path"] for stage in ours.values() for out in stage.get("outs", [])]
        if not ours or (not self.push and ours == self.own(before) and all(Path(path).exists() for path in made)):
            return
        if self.push:
            sharing.transfer("pull", list(ours), self.pulse)
        else:
            graph.open_repo().checkout(list(ours), allow_missing=True, force=True)

    def own(self, stages: dict[str, Any]) -> dict[str, Any]:
        """Those of the recipe: with no others DVC is done two seconds sooner, for fifty recipes' worth of them."""
        return {target: stages[target] for target in self.targets if target in stages}

    def restore_reports(self) -> None:
        """The files of the report that git keeps, and DVC does not, as they are on the branch."""
        report = str(layout.report(self.settings.name))
        if git("ls-tree", self.last, report):
            git("checkout", "--force", self.last, "--", report)

    def keep(self, message: Callable[[], str]) -> str | None:
        """Commit what came out to the branch, and share it if asked to; None if nothing has changed.

        What another machine has put on the branch since the two parted is joined, also if nothing has changed here:
        `origin` takes nothing that does not come after what it has. Raises ``UserError`` where that is away, and what
        ``pulse`` raises, once it is committed.
        """
        own, ours, last = branch(self.settings.name), lockfile.stages(), lockfile.stages_at(self.last)
        rivals: list[str] = []
        away: Exception | None = None
        if self.push:
            try:
                rivals = fetched(own, self.pulse)
            except Exception as error:
                away = error
        tip, new = tip_of(own), None
        if rivals or ours != self.own(last):
            lockfile.write(lockfile.stages_at(self.base) | ours)
            git("add", "--all", "--", *(name for name in (LOCK, "reports") if Path(name).exists()))
            earlier = [one for one in (tip, *rivals) if one is not None and not is_ancestor(one, self.base)]
            new = worktree.commit(git("write-tree"), [self.base, *earlier], message())
            git("update-ref", f"refs/heads/{own}", new, tip or "0" * 40)
        if away is not None:
            raise away
        if self.push and (new or tip):
            sharing.transfer("push", self.targets, self.pulse)
            if new or (tip and not is_ancestor(tip, self.base)):  # one that was merged may have been deleted there
                git("push", "--quiet", ORIGIN, own, pulse=self.pulse)
        return new


def found(recipe: str) -> str:
    """Where the results of the recipe's retrainings lie, in two lines."""
    tip, own = tip_of(branch(recipe)), branch(recipe)
    here = tip is None or is_ancestor(tip, git("rev-parse", "HEAD"))
    kept = "nothing that this checkout has not" if here else f"{own}   take it over: {merging(own)}"
    grid = layout.retraining(recipe) / git("rev-parse", "--show-prefix") / layout.report(recipe) / "grid.png"
    return f"branch    {kept}\nsamples   {grid}"


def merging(ref: str) -> str:
    """The commands that bring a branch's results into the checkout, whatever lies there uncommitted.

    Where the checkout has results of its own, both have written reports, and git is told whose to take.
    """
    lockfile.teach_git()
    bring = f"dvc {'pull' if ref.startswith(ORIGIN) else 'checkout'} --allow-missing"
    ours = [name for name in worktree.OURS if Path(name).exists()]
    listed = git("ls-files", "-z", "--modified", "--others", "--exclude-standard", "--", *ours)
    changed = list(filter(None, listed.split("\0")))  # by lines they would be quoted, if a name is not plain
    staged = git("diff", "--cached", "--name-only", "--", *ours)
    if not (changed or staged) and is_ancestor(git("rev-parse", "HEAD"), ref):
        return f"git merge {ref} && {bring}"
    add = f"git add {' '.join(sorted({path.partition('/')[0] for path in changed}))} && " if changed else ""
    commit = "git commit -m 'As it is here' && " if changed or staged else ""
    return f"{add}{commit}git merge -X theirs {ref} && {bring}"


def ahead() -> dict[str, str]:
    """By recipe the branch with results that the checkout has not: the local one, unless ``origin`` has newer."""
    told = ("--no-merged=HEAD", "--format=%(refname:short)", "--sort=-refname")  # origin's first
    found: dict[str, str] = {}
    for ref in git("for-each-ref", *told, "refs/heads/retrain/", f"refs/remotes/{ORIGIN}/retrain/").splitlines():
        recipe = ref.partition("retrain/")[2]
        if recipe not in found or not is_ancestor(ref, found[recipe]) or is_ancestor(found[recipe], ref):
            found[recipe] = ref
    return found


def tip_of(own: str) -> str | None:
    return git("for-each-ref", "--format=%(objectname)", f"refs/heads/{own}") or None


def is_ancestor(one: str, other: str) -> bool:
    """Whether the second commit is the first, or comes after it."""
    return git("rev-list", "--max-count=1", one, f"^{other}") == ""


def fetched(own: str, pulse: Callable[[], None]) -> list[str]:
    """Bring the branch from where ``origin`` is pushed to; returns its tip there if that and the local one have parted.

    Raises ``UserError``.
    """
    if ORIGIN not in git("remote").split():
        raise UserError(
            "params.yaml: schedule.push: git has no remote `origin` to push to; add one, or set push: false"
        )
    ref, place = f"refs/heads/{own}", git("remote", "get-url", "--push", ORIGIN)
    if place == git("remote", "get-url", ORIGIN):
        place = ORIGIN  # by its name, for git to move what it remembers of it, too
    there = git("ls-remote", place, ref, pulse=pulse).partition("\t")[0]  # by its full name: another's may end like it
    if not there:
        return []
    git("fetch", "--quiet", "--no-write-fetch-head", place, ref, pulse=pulse)  # all recipes' would be one file
    here = tip_of(own)
    if here is None or is_ancestor(here, there):
        git("update-ref", ref, there)
        return []
    return [] if is_ancestor(there, here) else [there]
