"""What a search may change: a recipe's knobs by their full names, from the command line and into ``params.yaml``."""

from __future__ import annotations

import math
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any

from annotated_types import MultipleOf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial
from ruamel.yaml.comments import CommentedMap

from aigc_tasks import catalogue, layout
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import validated
from aigc_tasks.recipe import Recipe, as_dict, recipe

WIDE = 10  # bounds so many times apart are searched on a logarithmic scale
SAMPLING = "postprocess.sampling"  # the section whose knobs need no other training
Space = dict[str, BaseDistribution]


def space(settings: Recipe, given: list[str]) -> Space:
    """What is searched, sorted by name: the family's own, or ``section.name=low:high`` and ``section.name=a,b,c``.

    Raises ``UserError``.
    """
    found: Space = {}
    for knob, (low, high) in () if given else settings.family.search.items():
        found[knob] = between(settings, knob, low, high, log=True)
    for text in given:
        knob, _, values = text.partition("=")
        if not values:
            raise UserError(f"--knob {text}: expected bounds or values; for example {knob}=1:10 or {knob}=1,2,5")
        if knob in found:
            raise UserError(f"--knob {knob}: given twice; omit one")
        parts = [plain(part.strip()) for part in values.split(":" if ":" in values else ",")]
        for part in parts:
            changed(settings, {knob: part}, "--knob ")  # raises if it cannot stand there
        if ":" in values and len(parts) == 2:
            low, high = parts
            found[knob] = between(settings, knob, low, high, log=None)
        elif ":" not in values and len(set(parts)) == len(parts) > 1:
            found[knob] = CategoricalDistribution(parts)
        else:
            raise UserError(
                f"--knob {knob}: expected low:high or different a,b,c, got {values!r}; for example {knob}=1:10"
            )
    return dict(sorted(found.items()))


def between(settings: Recipe, knob: str, low: Any, high: Any, log: bool | None) -> BaseDistribution:
    """Numbers from low to high, on a logarithmic scale if ``log``, or if it is None and they lie ``WIDE`` apart."""
    section, _, name = knob.rpartition(".")
    field = type(sections(settings)[section]).model_fields[name]
    if field.annotation not in (int, float):
        raise UserError(f"--knob {knob}: is not a number; name its values: {knob}=a,b")
    if not low < high < math.inf:
        raise UserError(f"--knob {knob}: expected low:high, got {low}:{high}; the lower bound comes first")
    if log is None:
        log = low > 0 and high / low >= WIDE
    if field.annotation is float:
        return FloatDistribution(low, high, log=log)
    multiple = next((int(str(limit.multiple_of)) for limit in field.metadata if isinstance(limit, MultipleOf)), 1)
    if knob == "train.batch":
        multiple = settings.train.accumulate  # other batches would fail, a trial each
    return IntDistribution(low, high, log=log and multiple == 1, step=multiple)


def plain(text: str) -> Any:
    """A word of the command line as YAML would read it: a whole number, a number, true or false, else text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text, text)


def sections(settings: Recipe) -> dict[str, Any]:
    return {"model": settings.family, "train": settings.train, SAMPLING: settings.sampling}


def current(settings: Recipe, knob: str) -> Any:
    section, _, name = knob.rpartition(".")
    return as_dict(sections(settings)[section])[name]


def changed(settings: Recipe, knobs: dict[str, Any], where: str) -> Recipe:
    """The recipe with other knobs, ``{"train.steps": 10}``; raises ``UserError`` that begins with ``where``."""
    kinds = {section: type(before) for section, before in sections(settings).items()}
    values = {section: as_dict(before) for section, before in sections(settings).items()}
    for knob, value in knobs.items():
        section, _, name = knob.rpartition(".")
        if section not in values:
            known = f"model.NAME, train.NAME or {SAMPLING}.NAME"
            raise UserError(f"{where}{knob}: there is no section {section or knob!r} to search; a knob is {known}")
        values[section][name] = value
    made = {section: validated(kinds[section], values[section], f"{where}{section}") for section in values}
    sampling = made["model"].checked(made[SAMPLING], f"params.yaml: recipes.{settings.name}")
    return replace(settings, family=made["model"], train=made["train"], sampling=sampling)


def holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low <= value <= distribution.high


def suggestion(trial: Trial, knob: str, distribution: BaseDistribution) -> Any:
    """What the trial is to try, numbers rounded to three significant digits: what is measured is what is written."""
    match distribution:
        case FloatDistribution(low=low, high=high, log=log):
            rounded = float(f"{trial.suggest_float(knob, low, high, log=log):.3g}")
            return min(max(rounded, low), high)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(knob, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(knob, choices)


def write(name: str, knobs: dict[str, Any]) -> list[str]:
    """Set the recipe's knobs in ``params.yaml``, where they differ; returns each change. Raises ``UserError``."""
    settings, lines = recipe(name), []
    with catalogue.edited() as params:
        for knob, value in knobs.items():
            section, _, key = knob.rpartition(".")
            old = current(settings, knob)
            if old == value:
                continue
            lines.append(f"{layout.PARAMS}: recipes.{name}.{knob}: {old} → {value}")
            place = params["recipes"]
            for part in (name, *section.split(".")):
                own = dict(place.non_merged_items()).get(part)
                if place.get(part) is None:
                    place[part] = CommentedMap()
                elif own is None or own.yaml_anchor():  # other recipes have it too, by `<<` or `*`
                    place[part] = deepcopy(place[part])
                place = place[part]
            place[key] = value
    return lines


def trains(searched: Space) -> bool:
    """Whether another choice of knobs needs another training."""
    return any(not knob.startswith(f"{SAMPLING}.") for knob in searched)


def described(searched: Space) -> str:
    """``train.learning_rate 0.0002 to 0.003``, and so on."""
    words = []
    for knob, over in searched.items():
        if isinstance(over, CategoricalDistribution):
            words.append(f"{knob} {' or '.join(map(str, over.choices))}")
        elif isinstance(over, FloatDistribution | IntDistribution):
            words.append(f"{knob} {over.low:g} to {over.high:g}")
    return ", ".join(words)


def listed(knobs: dict[str, Any]) -> str:
    return ", ".join(f"{knob} {value}" for knob, value in knobs.items())
