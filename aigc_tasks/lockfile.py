"""What ``dvc.lock`` records: by stage its command, and the hashes of what it read and made."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aigc_tasks.worktree import git

LOCK = "dvc.lock"


def stages(place: Path = Path()) -> dict[str, Any]:
    """What the file in a folder records; nothing where nothing was made yet."""
    try:
        return dict(read((place / LOCK).read_text()))
    except FileNotFoundError:
        return {}


def stages_at(revision: str) -> dict[str, Any]:
    """What the file in a commit records."""
    return dict(read(text_at(revision)))


def write(stages: dict[str, Any]) -> None:
    """Let the file here record this, as DVC would write it."""
    from dvc.utils.serialize import dump_yaml

    dump_yaml(LOCK, {"schema": "2.0", "stages": stages})


def text_at(revision: str) -> str:
    """The file in a commit as it is; empty where it has none."""
    return git("show", f"{revision}:./{LOCK}") + "\n" if git("ls-tree", revision, LOCK) else ""


@lru_cache(maxsize=4)
def read(text: str) -> dict[str, Any]:
    """Not to be changed: of base, branch and worktree most say the same, and to read it takes a while."""
    found: dict[str, Any] = (YAML(typ="safe").load(text) or {}).get("stages", {})
    return found
