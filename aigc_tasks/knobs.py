"""Typed, validated settings, and the words for what is wrong with them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aigc_tasks.errors import UserError


class Knobs(BaseModel):
    """Base of every section of ``params.yaml``: each knob has a type, bounds and a default; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Compute(Knobs):
    """Base of the sections whose stage computes with torch."""

    # One thread by default: on images this small a second one gains a fifth, and two runs of two threads each on two
    # cores wait for each other so much that both nearly stand still (measured: 26 steps/s each with 1, under 2 with 2).
    threads: int = Field(1, gt=0, description="CPU threads; part of the result: other counts round differently")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")


K = TypeVar("K", bound=Knobs)

EXPECTED = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "list_type": "expected a list",
}


def validated(kind: type[K], section: Any, where: str) -> K:
    """``section`` as ``kind``; raises ``UserError`` with one line a problem, each beginning with ``where``."""
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise UserError(f"{where}: expected keys and values, got {section!r}; write `key: value` lines or {{}}")
    try:
        return kind.model_validate(section)
    except ValidationError as error:
        names = list(kind.model_fields)
        raise UserError("\n".join(describe(problem, names, where) for problem in error.errors())) from None


def describe(problem: Any, names: list[str], where: str) -> str:
    """One pydantic error in a beginner's words."""
    field = ".".join([where, *map(str, problem["loc"])])
    sort, given = problem["type"], problem["input"]
    if sort == "extra_forbidden":
        return f"{field}: unknown key; {suggestion(str(problem['loc'][-1]), names)}"
    if sort == "missing":
        return f"{field}: missing; add it"
    if sort in EXPECTED:
        return f"{field}: {EXPECTED[sort]}, got {given!r}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{field}: must be {message}, got {given!r}" if sort != "value_error" else f"{field}: {message}"


def suggestion(given: str, known: list[str]) -> str:
    """The mend for a wrong name."""
    close = get_close_matches(given, known, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are: {', '.join(sorted(known))}"
