"""Take a ready-made recipe from ``recipes/`` into ``params.yaml``, keeping what the user wrote there as it is."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from aigc_tasks import layout, recipe
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import suggestion


def take(name: str) -> list[str]:
    """Add the recipe, and its data set unless it is in use already; returns what was added. Raises ``UserError``."""
    offered = sorted(path.stem for path in layout.CATALOGUE.glob("*.yaml"))
    if name not in offered:
        raise UserError(f"{layout.CATALOGUE}: there is no {name!r}; {suggestion(name, offered)}")
    if name in recipe.names():
        raise UserError(f"{layout.PARAMS}: recipes.{name}: is in use already; run it: aigc run {name}")
    source = layout.CATALOGUE / f"{name}.yaml"
    recipe.recipe(name, source)  # a broken file is refused before anything is written
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000  # long lines are the user's
    offer, params = yaml.load(source.read_text()), yaml.load(layout.PARAMS.read_text())
    if params is None:
        params = CommentedMap()
    added = []
    for table in ("datasets", "recipes"):
        for key, entry in offer[table].items():
            if key not in (params.get(table) or {}):
                insert(params, table, key, entry)
                added.append(f"{table}.{key}")
    written = io.StringIO()
    yaml.dump(params, written)
    layout.replace(layout.PARAMS, written.getvalue())
    return added


def insert(params: CommentedMap, table: str, key: str, entry: Any) -> None:
    if not params.get(table):
        params[table] = CommentedMap()
    params[table][key] = entry
