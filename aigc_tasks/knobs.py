"""Typed, validated settings, and the words for what is wrong with them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aigc_tasks.errors import UserError


class Knobs(BaseModel):
    """Base of every section of ``params.yaml``: each knob has a type, bounds and a default; unknown keys are errors.

    So are numbers that are infinite or none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class Compute(Knobs):
    """Base of the sections whose stage computes with torch."""

    # One thread by default: on images this small a second one gains a fifth, and two runs of two threads each on two
    # cores wait for each other so much that both nearly stand still (measured: 26 steps/s each with 1, under 2 with 2).
    threads: int = Field(
        1, gt=0, le=1024, description="CPU threads; part of the result: other counts round differently"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")


Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""For torch, which takes up to 2⁶⁴; the gate's other drawings count on from it."""

K = TypeVar("K", bound=Knobs)

EXPECTED = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "list_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "model_attributes_type": "expected keys and values",
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
        schema = kind.model_json_schema()
        raise UserError("\n".join(describe(problem, schema, where) for problem in error.errors())) from None


def describe(problem: Any, schema: dict[str, Any], where: str) -> str:
    """One pydantic error in a beginner's words; ``schema`` is the JSON schema of what was read."""
    path, names = place(problem["loc"], schema)
    field = ".".join([where, *path])
    sort, given = problem["type"], problem["input"]
    if sort == "union_tag_not_found":
        return f"{field}.{problem['ctx']['discriminator'][1:-1]}: missing; known are: {', '.join(sorted(names))}"
    if sort == "union_tag_invalid":
        tag = problem["ctx"]["tag"]
        return f"{field}.{problem['ctx']['discriminator'][1:-1]}: there is no {tag!r}; {suggestion(tag, names)}"
    if sort == "extra_forbidden":
        mend = suggestion(str(problem["loc"][-1]), names) if names else "there are none here; omit it"
        return f"{field}: unknown key; {mend}"
    if sort == "missing":
        return f"{field}: missing; add it"
    if sort in EXPECTED:
        return f"{field}: {EXPECTED[sort]}, got {given!r}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{field}: must be {message}, got {given!r}" if sort != "value_error" else f"{field}: {message}"


def place(loc: tuple[str | int, ...], schema: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The path as it is written in YAML, and the names that are known at its end: of keys, or of a list's kinds.

    Where a list holds things of several kinds, pydantic puts the kind into the path, which nobody wrote there.
    """
    path, names, here = [], list(schema["properties"]), schema
    for part in loc:
        kinds = here.get("discriminator", {}).get("mapping", {})
        if part in kinds:
            here = {"$ref": kinds[part]}
        else:
            path.append(str(part))
            here = here.get("items", {}) if isinstance(part, int) else here.get("properties", {}).get(part, {})
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].removeprefix("#/$defs/")]
        names = list(here.get("properties", here.get("discriminator", {}).get("mapping", names)))
    return path, names


def suggestion(given: str, known: list[str]) -> str:
    """The mend for a wrong name."""
    close = get_close_matches(given, known, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are: {', '.join(sorted(known))}"
