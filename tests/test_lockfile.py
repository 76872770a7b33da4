"""``dvc.lock``: read as DVC writes it, and merged by git stage by stage."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, USER

from aigc_tasks import lockfile
from aigc_tasks.errors import UserError
from aigc_tasks.worktree import git


def test_results_of_both_sides_are_merged_by_stages() -> None:
    base, ours, theirs = {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 2, "c": 1, "d": 2}, {"a": 3, "b": 1, "e": 3}
    assert lockfile.merged(base, ours, theirs) == {"a": 3, "b": 2, "d": 2, "e": 3}
    assert lockfile.merged(base, {**base, "a": 2}, {**base, "a": 3}) == {**base, "a": 3}


def test_git_merges_by_stages_and_by_lines_where_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in USER.items():
        monkeypatch.setenv(name, value)
    git("init", "--quiet", "--initial-branch", "main")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    stage = {"cmd": "true", "outs": [{"path": "x", "md5": "0"}]}
    for branch, stages in {"main": {}, "one": {"train@one": stage}, "two": {"train@two": stage}}.items():
        git("checkout", "--quiet", *(["-B", branch, "main"] if stages else ["-B", branch]))
        lockfile.write({"clean@data": stage, **stages})
        git("add", "--all")
        git("commit", "--quiet", "--message", branch)
    lockfile.teach_git()
    git("merge", "--quiet", "--no-edit", "one")
    assert lockfile.stages().keys() == {"clean@data", "train@one", "train@two"}

    git("reset", "--quiet", "--hard", "HEAD~1")
    git("config", lockfile.DRIVER, git("config", lockfile.DRIVER).replace(sys.executable, "/nowhere/python"))
    with pytest.raises(UserError):
        git("merge", "--quiet", "--no-edit", "one")
    assert "<<<<<<<" in Path("dvc.lock").read_text()
    with pytest.raises(UserError, match="is not as DVC writes it"):
        lockfile.stages()


def test_a_lock_that_breaks_off_within_a_list_is_none() -> None:
    whole = """
stages:
  train@x:
    cmd: python
    outs:
    - path: data
      md5: 0
"""
    assert lockfile.read(whole)
    assert lockfile.read(whole[: whole.index("outs")]), "a stage of the user's may have none"
    for end in ("- path", "path: data"):
        with pytest.raises(UserError, match="is not as DVC writes it"):
            lockfile.read(whole[: whole.index(end)].rstrip())
