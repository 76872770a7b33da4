"""What ``dvc.lock`` records: by stage its command, and the hashes of what it read and made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from aigc_tasks import layout
from aigc_tasks.errors import UserError
from aigc_tasks.worktree import git

LOCK = "dvc.lock"


def stages(place: Path = Path()) -> dict[str, Any]:
    """What the file in a folder records; nothing where nothing was made yet. Here and below raises ``UserError``."""
    try:
        return dict(read((place / LOCK).read_text()))
    except FileNotFoundError:
        return {}


def stages_at(revision: str) -> dict[str, Any]:
    """What the file in a commit records."""
    return dict(read(git("show", f"{revision}:./{LOCK}") if git("ls-tree", revision, LOCK) else ""))


def write(stages: Mapping[str, Any], place: Path = Path()) -> None:
    """Let the file in a folder record this, as DVC would write it."""
    from dvc.utils.serialize import dumps_yaml

    layout.replace(place / LOCK, dumps_yaml({"schema": "2.0", "stages": dict(stages)}))


@lru_cache(maxsize=4)
def read(text: str) -> dict[str, Any]:
    """Not to be changed: of base, branch and worktree most say the same, and to read it takes a while."""
    try:
        return dict((YAML(typ="safe").load(text) or {}).get("stages", {}))
    except (YAMLError, AttributeError, TypeError):
        raise UserError(
            f"{LOCK} is not as DVC writes it; settle a merge, or put it back: git checkout HEAD -- {LOCK}"
        ) from None
