"""Take a ready-made recipe from ``recipes/`` into ``params.yaml``, keeping what the user wrote there as it is."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from aigc_tasks import acquire, layout, recipe
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import suggestion


def take(name: str, source: str | None = None) -> list[str]:
    """Add the recipe, and its data set unless it is in use already; returns what was added. Raises ``UserError``.

    ``source`` is the place that the data set comes from, for the kinds that have such a knob.
    """
    offered = sorted(path.stem for path in layout.CATALOGUE.glob("*.yaml"))
    if name not in offered:
        raise UserError(f"{layout.CATALOGUE}: there is no {name!r}; {suggestion(name, offered)}")
    in_use = UserError(f"{layout.PARAMS}: recipes.{name}: is in use already; run it: aigc run {name}")
    if name in recipe.names():
        raise in_use
    file = layout.CATALOGUE / f"{name}.yaml"
    recipe.read(file)  # a file that is not YAML is named
    yaml = editor()
    offer, params = yaml.load(file.read_text()), yaml.load(layout.PARAMS.read_text()) or {}
    fill(offer, params, name, source)
    validate(yaml, offer, name, file)
    if f"recipes.{name}" not in (added := put(offer)):
        raise in_use  # since the look above
    return added


def editor() -> YAML:
    """YAML that is written as it was read: comments, order and quotes are the user's."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000  # long lines, too
    return yaml


@contextmanager
def edited() -> Iterator[CommentedMap]:
    """The content of ``params.yaml``, to be changed, which is written then. Another command's change waits for it."""
    layout.LOCAL.mkdir(exist_ok=True)
    with FileLock(layout.LOCAL / "params.lock"):
        yaml, written = editor(), io.StringIO()
        params = yaml.load(layout.PARAMS.read_text())
        if params is None:
            params = CommentedMap()
        yield params
        yaml.dump(params, written)
        layout.replace(layout.PARAMS, written.getvalue())


def put(offer: Any) -> list[str]:
    """Write the data sets and recipes that are not in use yet into ``params.yaml``; returns what was added."""
    added = []
    with edited() as params:
        for table in ("datasets", "recipes"):
            for key, entry in offer.get(table, {}).items():
                if key not in (params.get(table) or {}):
                    insert(params, table, key, entry)
                    added.append(f"{table}.{key}")
    return added


def fill(offer: Any, params: Any, name: str, source: str | None) -> None:
    """Set ``source`` in the offered recipe's data set; raises ``UserError`` if it is missing there or out of place."""
    try:
        dataset = offer["recipes"][name]["dataset"]
        section = offer["datasets"][dataset]["acquire"]
        knob = acquire.source(section["kind"]).model_fields.get("source")
        used = (params.get("datasets") or {}).get(dataset)
        in_use = used["acquire"].get("source") if used else None
    except (AttributeError, KeyError, TypeError, ModuleNotFoundError):
        return  # one of the files is broken: the validation that follows says where
    if source is not None and knob is None:
        raise UserError(f"{name}: data set {dataset} is of kind {section['kind']}, which has no source; omit --source")
    if source is not None and used and source != in_use:
        raise UserError(
            f"{layout.PARAMS}: datasets.{dataset}.acquire.source: is in use already as {in_use}; "
            "omit --source, or change it there"
        )
    source = source or in_use
    if source is not None:
        section["source"] = source
    elif knob and knob.is_required() and "source" not in section:
        raise UserError(f"{name}: where is data set {dataset}? say it: aigc add {name} --source PLACE")


def validate(yaml: YAML, offer: Any, name: str, file: Path) -> None:
    """Raise ``UserError`` if ``offer``, filled in, is not a whole recipe: before anything is written."""
    with tempfile.TemporaryDirectory() as folder:
        filled = Path(folder, file.name)
        yaml.dump(offer, filled)
        try:
            recipe.recipe(name, filled)
        except UserError as error:
            raise UserError(str(error).replace(str(filled), str(file))) from None


def insert(params: CommentedMap, table: str, key: str, entry: Any) -> None:
    if not params.get(table):
        params[table] = CommentedMap()
    params[table][key] = entry
