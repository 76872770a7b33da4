"""What is live: a few lines per product."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aigc_tasks import graph, layout, tracking
from aigc_tasks import recipe as recipes
from aigc_tasks.acquire import raw
from aigc_tasks.errors import UserError
from aigc_tasks.promote import registry
from aigc_tasks.promote.register import mended
from aigc_tasks.promote.registry import Event, Product

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

HISTORY = 5  # events told
UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def products(name: str | None = None) -> str:
    """Every product, or one with its history: champion, challenger, quality, age, data, and whether it still holds."""
    client = tracking.open_client()
    names = list(registry.ledgers()) if name is None else [name]
    if not names:
        return "nothing is registered yet; next: aigc promote RECIPE"
    return "\n\n".join(told(Product(client, one), HISTORY if name is None else None) for one in names)


def told(product: Product, history: int | None) -> str:
    product.mend()
    events, standing = product.ledger(), product.live()
    if not events:
        raise UserError(f"{product.name!r} has no history; its versions were not made by `aigc promote`")
    lines = [product.name]
    for role in registry.ALIASES:
        number = getattr(standing, role)
        if number is None:
            lines.append(f"  {role:11} none")
            continue
        version = mended(product.version(str(number)))
        crowned = registry.crowned(events) if role == "champion" else None
        last = crowned or [event for event in events if event.version == number][-1]
        lines.append(f"  {role:11} version {number}, {version.tags['aigc.recipe']}: {figures(version)}; {age(last)}")
        if role == "champion":
            lines += [f"              data {data(version)}", f"              {matches(version)}"]
        elif role == "challenger":
            lines.append(f"              {last.kind}: {last.reason}")
    lines.append("  history")
    for event in events[-history:] if history else events:
        lines.append(f"    {event.time}  {event.kind:9} version {event.version}  {event.reason}")
    return "\n".join(lines)


def figures(version: ModelVersion) -> str:
    tags = version.tags
    said = [f"FID {tags['quality.fid_ratio']} × real against real", f"recall {tags['quality.recall']}"]
    if "quality.class_accuracy" in tags:
        said.append(f"class accuracy {float(tags['quality.class_accuracy']):.1%}")
    return ", ".join(said)


def age(event: Event) -> str:
    return ago(datetime.fromisoformat(event.time))


def ago(when: datetime) -> str:
    """How long ago, in words."""
    seconds = (datetime.now(UTC) - when).total_seconds()
    for size, unit in UNITS:
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def data(version: ModelVersion) -> str:
    """Which version of the data set it was trained on, as `aigc data log` counts them."""
    name, digest = version.tags["data.name"], version.tags["data.digest"]
    known = raw.versions(layout.raw(name)) if layout.raw(name).is_dir() else []
    numbers = [number for number, one in enumerate(known, 1) if one["digest"] == digest]
    if not numbers:
        return f"{name}, a version ({digest[:8]}) that is not here"
    newest = "the newest" if numbers[-1] == len(known) else f"of {len(known)}"
    return f"{name} version {numbers[-1]}, {newest}"


def matches(version: ModelVersion) -> str:
    """Whether `dvc repro` would make the same model now."""
    name = version.tags["aigc.recipe"]
    try:
        recipes.recipe(name)
        now = graph.inputs(f"train@{name}").fingerprint
    except FileNotFoundError as error:
        missing = os.path.relpath(error.filename or str(error))
        mend = "merge the branch that has it (aigc status), then dvc pull, or dvc checkout if it was made here"
        return f"whether `dvc repro` would make it is not known: {missing} is not here; {mend}"
    except (UserError, OSError) as error:
        return f"`dvc repro` cannot make it here now: {str(error).splitlines()[0]}"
    except Exception as error:  # DVC raises anything where data is missing
        return f"whether `dvc repro` would make it here is not known: {graph.one_line(error)}"
    if now == version.tags[tracking.FINGERPRINT]:
        return "it is what `dvc repro` makes of data, code and parameters as they are now"
    return f"data, code or parameters have changed since: `aigc run {name}` makes another one"
