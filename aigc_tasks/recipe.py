"""``params.yaml`` as typed, validated data sets and recipes. The only reader of that file.

A section is named after the stage that reads it, and its knobs and their defaults are defined in that stage's package:
a changed default is a change of that package, which DVC sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

from aigc_tasks import acquire, clean, evaluate, families, features, networks, postprocess, promote, train
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import Knobs, suggestion, validated
from aigc_tasks.layout import PARAMS
from aigc_tasks.schedule import Schedule

EMPTY = "none is in use; `aigc add NAME` takes one from recipes/"
LONGEST = 100  # letters; with what is put before and behind it, a name of ours is one of a file
NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{LONGEST - 1}}}")  # DVC's addresses and our folders are made of names
NAMING = f"a name is made of a-z, 0-9, - and _, {LONGEST} of them at most"


@dataclass(frozen=True)
class Dataset:
    """One entry under ``datasets:``."""

    name: str
    acquire: acquire.Source
    clean: clean.Knobs
    features: features.Knobs


@dataclass(frozen=True)
class Product:
    """What recipes compete for, and what its entry under ``products:`` says, if it has one."""

    name: str
    knobs: promote.Product


@dataclass(frozen=True)
class Recipe:
    """One entry under ``recipes:``: data set, model family, network, the knobs of each stage, product, schedule."""

    name: str
    dataset: Dataset
    family_name: str
    family: families.Family
    network: str
    train: train.Knobs
    postprocess: postprocess.Knobs
    sampling: Knobs
    evaluate: evaluate.Knobs
    product: Product | None
    schedule: Schedule | None


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a params file, ``{"datasets": …, "recipes": …, "products": …}``, entries not yet validated.

    Raises ``UserError``.
    """
    content = content_of(path) or {}
    tables = {}
    for table in ("datasets", "recipes", "products"):
        tables[table] = (content.get(table) if isinstance(content, dict) else None) or {}
        if not isinstance(tables[table], dict):
            raise UserError(f"{path}: {table}: expected names with their settings, got {tables[table]!r}")
        for name in tables[table]:
            if not isinstance(name, str):
                mend = f'put it in quotes, `"{name}":`, or begin it with a letter'
                raise UserError(f"{path}: {table}.{name}: a name is text, and YAML takes this one for none; {mend}")
    return tables


def content_of(path: Path, dated: bool = False) -> Any:
    """What a YAML file holds; raises ``UserError``, also for a date in one that is not ``dated``."""
    try:
        text = path.read_text(encoding="utf-8")
        return parsed(text, dated)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; restore it, for example by `git checkout {path}`") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}: line {line}: U+{error.character:04X} is no character of YAML; remove it") from None
    except MarkedYAMLError as error:
        where = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}:{where} is not YAML: {error.problem}; mend that line") from None


@lru_cache(maxsize=4)
def parsed(text: str, dated: bool) -> Any:
    """What the YAML holds, not to be changed: a look at fifty recipes reads the same text two hundred times."""
    yaml = YAML(typ="safe", pure=True)
    if not dated:
        yaml.Constructor = Undated
    return yaml.load(text)


class Undated(SafeConstructor):
    """What DVC can read of YAML: it knows no dates. No knob is one, so that a text was meant."""

    def refuse(self, node: ScalarNode) -> None:
        raise ConstructorError(
            problem=f"{node.value} counts as a date unless it stands in quotes", problem_mark=node.start_mark
        )


Undated.add_constructor("tag:yaml.org,2002:timestamp", Undated.refuse)


def names() -> list[str]:
    """Recipes in use, in the order of ``params.yaml``."""
    return list(read(PARAMS)["recipes"])


def dataset(name: str, path: Path = PARAMS) -> Dataset:
    """The validated data set; raises ``UserError``."""
    where, entry = find(path, "datasets", name, {"acquire", "clean", "features"})
    source = entry["acquire"] if isinstance(entry["acquire"], dict) else {}
    kind = one_of(f"{where}.acquire.kind", source.get("kind"), acquire.kinds())
    return Dataset(
        name=name,
        acquire=validated(acquire.source(kind), entry["acquire"], f"{where}.acquire"),
        clean=validated(clean.Knobs, entry["clean"], f"{where}.clean"),
        features=validated(features.Knobs, entry["features"], f"{where}.features"),
    )


def recipe(name: str, path: Path = PARAMS) -> Recipe:
    """The validated recipe, its data set with it; raises ``UserError``."""
    sections = {"model", "train", "postprocess", "evaluate"}
    where, entry = find(path, "recipes", name, sections | {"dataset", "family", "network"}, {"product", "schedule"})
    one_of(f"{where}.dataset", entry["dataset"], list(read(path)["datasets"]))
    family = one_of(f"{where}.family", entry["family"], list(families.FAMILIES))
    kind = families.load(family)
    training = entry["train"] or {}
    if isinstance(training, dict):
        training = {**kind.training, **training}
    model = validated(kind, entry["model"], f"{where}.model")
    after = validated(postprocess.Knobs, entry["postprocess"], f"{where}.postprocess")
    return Recipe(
        name=name,
        dataset=dataset(entry["dataset"], path),
        family_name=family,
        family=model,
        network=network_for(kind, entry["network"], family, f"{where}.network"),
        train=validated(train.Knobs, training, f"{where}.train"),
        postprocess=after,
        sampling=model.checked(validated(kind.Sampling, after.sampling, f"{where}.postprocess.sampling"), where),
        evaluate=validated(evaluate.Knobs, entry["evaluate"], f"{where}.evaluate"),
        product=None if entry.get("product") is None else product(entry["product"], f"{where}.product", path),
        schedule=validated(Schedule, entry["schedule"], f"{where}.schedule") if "schedule" in entry else None,
    )


def usable() -> Iterator[Recipe | UserError]:
    """Every recipe in use, or what is wrong with it."""
    for name in names():
        try:
            yield recipe(name)
        except UserError as error:
            yield error


def product(name: Any, field: str, path: Path) -> Product:
    """The product that ``field`` names, and what its entry under ``products:`` says, if any; raises ``UserError``."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"{field}: {NAMING}, got {name!r}; rename it")
    entry = read(path)["products"].get(name)
    return Product(name, validated(promote.Product, entry, f"{path}: products.{name}"))


def network_for(kind: type[families.Family], given: object, family: str, field: str) -> str:
    """The network's name, if its file offers what the family is built from; raises ``UserError``."""
    name = one_of(field, given, networks.names())
    fitting = networks.names(kind.roles)
    if name not in fitting:
        mend = f"use {' or '.join(fitting)}"
        raise UserError(f"{field}: {name!r} has no {' or no '.join(kind.roles)}, which {family} is built from; {mend}")
    return name


def find(
    path: Path, table: str, name: str, keys: set[str], optional: Set[str] = frozenset()
) -> tuple[str, dict[str, Any]]:
    """Where the entry stands, and the entry: it has ``keys``, which DVC's graph names, and may have ``optional``."""
    entries = read(path)[table]
    if name not in entries:
        raise UserError(
            f"{path}: {table}: there is no {name!r}; {suggestion(name, list(entries)) if entries else EMPTY}"
        )
    if not NAME.fullmatch(name):
        raise UserError(f"{path}: {table}.{name}: {NAMING}; rename it")
    where, entry = f"{path}: {table}.{name}", entries[name]
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected keys and values, got {entry!r}; write `key: value` lines")
    for key in entry:
        if key not in keys | optional:
            raise UserError(f"{where}.{key}: unknown key; {suggestion(str(key), sorted(keys | optional))}")
    for key in sorted(keys - entry.keys()):
        mend = "name one" if key in {"dataset", "family", "network"} else f"add `{key}: {{}}` for the defaults"
        raise UserError(f"{where}.{key}: missing; {mend}")
    return where, entry


def one_of(field: str, given: object, known: list[str]) -> str:
    """``given`` if it is known; raises ``UserError`` with what it could be."""
    if isinstance(given, str) and given in known:
        return given
    if given is None:
        raise UserError(f"{field}: missing; known are: {', '.join(sorted(known))}")
    raise UserError(f"{field}: there is no {given!r}; {suggestion(str(given), known)}")


def as_dict(knobs: Knobs) -> dict[str, Any]:
    """All knobs with their defaults, as plain values."""
    return knobs.model_dump(mode="json")
