"""What ``dvc.lock`` records: by stage its command, and the hashes of what it read and made.

``python -m aigc_tasks.lockfile BASE OURS THEIRS`` is what git calls to merge two of them into ``OURS``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from aigc_tasks import layout
from aigc_tasks.errors import UserError
from aigc_tasks.worktree import git

LOCK = "dvc.lock"
DRIVER = "merge.dvc-lock.driver"


def stages(place: Path = Path()) -> dict[str, Any]:
    """What the file in a folder records; nothing where nothing was made yet. Here and below raises ``UserError``."""
    try:
        return dict(read((place / LOCK).read_text()))
    except FileNotFoundError:
        return {}


def stages_at(revision: str) -> dict[str, Any]:
    """What the file in a commit records."""
    return dict(read(git("show", f"{revision}:./{LOCK}") if git("ls-tree", revision, LOCK) else ""))


def write(stages: Mapping[str, Any], path: Path = Path(LOCK)) -> None:
    """Let a file record this, as DVC would write it."""
    from dvc.utils.serialize import dumps_yaml

    layout.replace(path, dumps_yaml({"schema": "2.0", "stages": dict(stages)}))


@lru_cache(maxsize=4)
def read(text: str) -> dict[str, Any]:
    """Not to be changed: of base, branch and worktree most say the same, and to read it takes a while."""
    try:
        found = dict((YAML(typ="safe").load(text) or {}).get("stages", {}))
        for stage in found.values():  # a file that breaks off may be YAML all the same
            _ = [out["path"] for out in stage.get("outs", [])]
        return found
    except (YAMLError, AttributeError, TypeError, KeyError, ValueError):
        raise UserError(
            f"{LOCK} is not as DVC writes it; settle a merge, or put it back: git checkout HEAD -- {LOCK}"
        ) from None


def merged(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Every stage from the side that changed it since ``base``; from ``theirs`` where both did."""
    changed = {name for name in {*base, *theirs} if theirs.get(name) != base.get(name)}
    kept = {name: stage for name, stage in ours.items() if name not in changed}
    return kept | {name: stage for name, stage in theirs.items() if name in changed}


def teach_git() -> None:
    """Let git merge ``dvc.lock`` by stages in this repository, as ``.gitattributes`` asks it to."""
    # where it cannot run, lines are merged: else git would leave ours as if it were the whole
    driver = f"{shlex.quote(sys.executable)} -m aigc_tasks.lockfile %O %A %B || git merge-file %A %O %B"
    known = ""
    with suppress(UserError):  # git has none yet
        known = git("config", DRIVER)
    if known != driver:
        with suppress(UserError):  # it may not be ours to write; lines are merged, then
            git("config", DRIVER, driver)


def main() -> None:
    paths = [Path(argument) for argument in sys.argv[1:4]]
    try:
        base, ours, theirs = (read(path.read_text()) for path in paths)
    except UserError as error:
        sys.exit(f"error: {error}")
    write(merged(base, ours, theirs), paths[1])


if __name__ == "__main__":
    main()
