"""`aigc data log`, `diff` and `update`: what a data set was at each version, and that an old one comes back."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import fill
from conftest import Project, checkout
from test_add_data import picture

pytestmark = pytest.mark.slow

COMMIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "commit", "-qam")


def rows(said: str) -> list[list[str]]:
    """The table in the log, newest version first."""
    return [line.split() for line in said.splitlines() if re.match(r" +\d+  ", line)]


def commit(project: Project, words: str) -> str:
    project.check("git", "add", "-A")
    project.check(*COMMIT, words, "--no-verify")
    return project.check("git", "rev-parse", "--short", "HEAD").strip()


def kept(project: Project) -> pd.DataFrame:
    return pd.read_parquet(project.path / "data/clean/pets/manifest.parquet").set_index("id")


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> tuple[Project, list[str]]:
    """A folder of pictures that grew and shrank; the first two versions are committed. Take a copy, ``grown``."""
    project = checkout(Project(tmp_path_factory.mktemp("versions") / "project", dict(env)))
    place = project.path.parent / "pics"
    names = ("cat", "horse")
    fill(place, {f"{name}/{seed}.png": picture(seed + 100 * len(name)) for name in names for seed in range(30)})
    project.check("aigc", "add-data", "pets", str(place))
    project.check("dvc", "repro", "clean@pets")
    commits = [commit(project, "first")]
    fill(place, {f"dog/{seed}.png": picture(seed + 900) for seed in range(25)} | {"cat/0.png": picture(5000)})
    (place / "horse/7.png").unlink()
    (place / "cat/3.png").rename(place / "horse/new.png")
    said = project.check("aigc", "data", "update", "pets")
    assert "84 entries: 26 added, 1 changed, 2 removed; 27 read" in said
    assert re.search(r"version 2 of pets: 84 entries, \d+ kept: train \d+, val \d+, test \d+\n", said)
    commits.append(commit(project, "second"))
    shutil.rmtree(place / "dog")
    project.check("aigc", "data", "update", "pets")
    return project, commits


@pytest.fixture
def grown(three_versions: tuple[Project, list[str]], tmp_path: Path) -> tuple[Project, list[str]]:
    """A copy of the project, free to change, and its two commits."""
    project, commits = three_versions
    shutil.copytree(project.path, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", dict(project.env)), list(commits)


def test_log_and_diff_say_what_changed_and_an_old_version_comes_back(grown: tuple[Project, list[str]]) -> None:
    project, commits = grown
    newest, second, first = rows(project.check("aigc", "data", "log", "pets"))
    assert first[0] == "1"
    assert first[3:8] == [commits[0], "60", "60", "0", "0"]
    assert second[3:8] == [commits[1], "84", "26", "1", "2"]
    assert newest[3:8] == ["-", "59", "0", "0", "25"]
    assert newest[2].endswith("*")
    assert len({row[8] for row in (first, second, newest)}) == 3
    assert all(re.fullmatch("[0-9a-f]{12}", row[8]) for row in (first, second, newest))
    dates = project.check(
        "git", "log", "--format=%cd", "--date=format-local:%Y-%m-%d %H:%M", "--reverse", "--", "dvc.lock"
    )
    assert [" ".join(first[1:3]), " ".join(second[1:3])] == dates.splitlines()

    said = project.check("aigc", "data", "diff", "pets", "1", "2")
    assert "version 1 (60 entries) to 2 (84)" in said
    assert "\nadded 26\n" in said
    assert said.count("  dog/") == 20
    assert "\nremoved 2\n  cat/3.png\n  horse/7.png\n" in said
    assert "\nchanged 1\n  cat/0.png: content\n" in said
    assert "  cat  30 → 29\n  dog  0 → 25" in said
    assert "horse  " not in said
    assert "version 2 (84 entries) to 3 (59)" in project.check("aigc", "data", "diff", "pets", "2")

    now = np.load(project.path / "data/clean/pets/train.npy")
    third = commit(project, "third")
    command = f"git checkout {commits[0]} -- dvc.lock params.yaml && dvc checkout acquire@pets clean@pets"
    assert command.replace(commits[0], "COMMIT") in project.check("aigc", "data", "log", "pets")
    project.check("bash", "-c", command)
    assert "cat/3.png" in kept(project).index
    (only,) = rows(project.check("aigc", "data", "log", "pets"))
    assert only == first
    project.check("bash", "-c", command.replace(commits[0], "HEAD"))
    assert (np.load(project.path / "data/clean/pets/train.npy") == now).all()
    assert rows(project.check("aigc", "data", "log", "pets"))[0][3] == third


def test_a_clone_that_has_only_the_newest_version_knows_the_dates_of_all_and_brings_them_back(
    grown: tuple[Project, list[str]], tmp_path: Path
) -> None:
    project, commits = grown
    commits.append(commit(project, "third"))
    project.check("dvc", "remote", "add", "-d", "store", str(project.path / ".dvc/cache"))  # a remote looks the same
    commit(project, "a remote")
    project.check("git", "clone", "-q", str(project.path), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", project.env)
    clone.check("dvc", "pull", "acquire@pets")
    assert [row[3] for row in rows(clone.check("aigc", "data", "log", "pets"))] == commits[::-1]
    said = clone.check("aigc", "data", "log", "pets")
    assert rows(said) == rows(project.check("aigc", "data", "log", "pets"))
    command = next(line for line in said.splitlines() if "COMMIT" in line).removeprefix("bring one back ")
    clone.check("bash", "-c", command.replace("COMMIT", commits[0]))
    assert "cat/3.png" in kept(clone).index


def test_an_update_with_nothing_new_changes_nothing(grown: tuple[Project, list[str]]) -> None:
    project, _ = grown
    before = (project.path / "dvc.lock").read_bytes()
    assert "59 entries: 0 added, 0 changed, 0 removed; 0 read" in project.check("aigc", "data", "update", "pets")
    assert (project.path / "dvc.lock").read_bytes() == before
    assert len(rows(project.check("aigc", "data", "log", "pets"))) == 3


def test_what_does_not_exist_is_one_line(project: Project) -> None:
    absent = "bring it: `dvc repro acquire@digits`, or in a clone `dvc pull acquire@digits`"
    for arguments, error in [
        (("log", "digit"), "params.yaml: datasets: there is no 'digit'; did you mean 'digits'?"),
        (("log", "digits"), f"data/raw/digits: not a raw data set; {absent}"),
        (("diff", "digits", "1"), f"data/raw/digits: not a raw data set; {absent}"),
    ]:
        done = project.run("aigc", "data", *arguments)
        assert (done.returncode, done.stderr) == (1, f"error: {error}\n")
    project.check("dvc", "repro", "acquire@digits")
    done = project.run("aigc", "data", "diff", "digits", "1", "7")
    assert re.fullmatch(r"error: data/raw/digits: there is no version 7; .*\n", done.stderr)
    project.edit(lambda p: p["datasets"]["digits"].update(acquire={"kind": "folder", "source": "nowhere"}))
    done = project.run("aigc", "data", "update", "digits")
    assert done.returncode == 1
    assert re.fullmatch(r"error: acquire@digits: nowhere: no such folder or file; .*\n", done.stderr)
