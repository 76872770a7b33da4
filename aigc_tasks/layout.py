"""Where everything lies. All paths are relative to the project folder, in which every process of ours runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from aigc_tasks.errors import UserError

PARAMS = Path("params.yaml")
CATALOGUE = Path("recipes")
LOCAL = Path(".aigc")
"""State of this checkout alone: checkpoints of unfinished work, timings, locks. Never versioned, safe to delete."""
CHECKOUT = "AIGC_CHECKOUT"
"""Set in a worktree of ours, and for the runs of a worker: the checkout that they belong to."""
HOOKS = ("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Set by git for its hooks: where the checkout is, which git would then take every worktree for."""


def enter_project() -> Path:
    """Change to the project folder: the nearest one upwards that holds ``dvc.yaml`` and ``params.yaml``."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / PARAMS).is_file():
            os.chdir(folder)
            for name in HOOKS:
                os.environ.pop(name, None)
            return folder
    raise UserError(f"{here}: not in a project; change to the folder that holds dvc.yaml and params.yaml")


def outside(place: str) -> Path:
    """A path that ``params.yaml`` names, which is relative to the user's checkout, also in a worktree of ours.

    Raises ``UserError`` for the home of a user whom the machine does not know.
    """
    try:
        return Path(os.environ.get(CHECKOUT, ""), Path(place).expanduser())
    except RuntimeError:
        raise UserError(f"{place}: no such user's home; write the whole path, or ~/ for your own") from None


def raw(dataset: str) -> Path:
    return Path("data/raw", dataset)


def clean(dataset: str) -> Path:
    return Path("data/clean", dataset)


def features(dataset: str) -> Path:
    return Path("data/features", dataset)


def model(recipe: str) -> Path:
    return Path("data/models", recipe)


def samples(recipe: str) -> Path:
    return Path("data/samples", recipe)


def report(recipe: str) -> Path:
    return Path("reports", recipe)


def retraining(recipe: str) -> Path:
    """The worktree in which the recipe is retrained; beside it: a lock, who is at work, what is yet to be told."""
    return LOCAL / "retrain" / recipe


def model_card(recipe: str) -> Path:
    return report(recipe) / "model-card.md"


def data_report(dataset: str) -> Path:
    return Path("reports/data", f"{dataset}.html")


@contextmanager
def written_whole(final: Path) -> Iterator[Path]:
    """A folder to write into that takes its final name only when everything in it is written.

    The files carry their final names from the start: the bytes of ``torch.save`` depend on the file's name.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = final.with_name(f".{final.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into that takes its name only when it is whole, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def replace(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    with written(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
