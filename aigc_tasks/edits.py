"""Whether somebody has edited what a stage works with while it was at work.

DVC records a stage's parameters and code as they are when it has ended. Were they edited meanwhile, what was made with
the old ones would be kept as made with the new, and never be made again. Data need no watching: DVC locks them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aigc_tasks import graph
from aigc_tasks.errors import UserError
from aigc_tasks.layout import PARAMS
from aigc_tasks.recipe import read

VARIABLE = re.compile(r"\$\{item\.([\w.]+)\}")
MADE = "data/"  # by other stages


def watch(stage: str, name: str) -> Callable[[], None]:
    """To be called before anything is read; what it returns, at the end, raises ``UserError`` after an edit."""
    before = dict(state(stage, name))

    def check() -> None:
        after = dict(state(stage, name))
        edited = [what for what in before if after.get(what) != before[what]]
        if edited:
            raise UserError(
                f"{', '.join(edited)}: changed while {stage}@{name} was at work with what was there before; "
                "run it again for the new, or put the old back first"
            )

    return check


def state(stage: str, name: str) -> Iterator[tuple[str, Any]]:
    """Each parameter and each file of code that ``dvc.yaml`` names for a stage, with its value or its digest."""
    declared = YAML(typ="safe").load(Path("dvc.yaml").read_text())["stages"].get(stage)
    if declared is None:  # promoting is none of DVC's stages
        return
    table, template = str(declared.get("foreach")).strip("${}"), declared.get("do", declared)
    params = read(PARAMS)
    for key in plain(template, "params"):
        key = key.replace("${key}", name)
        yield f"{PARAMS}: {key}", found(params, key)
    for path in plain(template, "deps"):
        path = path.replace("${key}", name)
        for variable in VARIABLE.findall(path):
            key = f"{table}.{name}.{variable}"
            yield f"{PARAMS}: {key}", found(params, key)
            path = path.replace(f"${{item.{variable}}}", str(found(params, key)))
        if not path.startswith(MADE) and Path(path).exists():
            yield path, graph.digest(Path(path))


def plain(declared: dict[str, Any], what: str) -> list[str]:
    """The entries that are names and nothing more, as ours are; a user may have added others."""
    return [entry for entry in declared.get(what) or () if isinstance(entry, str)]


def found(values: Any, key: str) -> Any:
    """The value at a path of names with dots between them; None if there is none."""
    return reduce(lambda inner, part: inner.get(part) if isinstance(inner, dict) else None, key.split("."), values)
