"""Images from a registered product.

    from aigc_tasks.generate import generate

    images, labels = generate("digits@champion", count=64, label="3", seed=7)

``digits`` alone means its champion; ``digits@3`` is version 3. The same version, count, label and seed give the same
bytes, on a machine of the same kind.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from aigc_tasks import layout
from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image
from aigc_tasks.postprocess import saving
from aigc_tasks.product import BATCH, Batch
from aigc_tasks.progress import progress
from aigc_tasks.promote import registry, served
from aigc_tasks.promote.register import FILES, mended

NOTE = "generated.json"  # in the folder: what was asked, of which version, and how many batches are done
FOLDER = 10_000  # files in one folder
COLUMNS = 10  # of the grid
Format = Literal["png", "webp", "npy"]


def generate(address: str, count: int, label: str | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 N×C×H×W and class numbers N from a product's version; raises ``UserError``."""
    _, version = registry.find(address)
    return served.loaded(version).images(count, label, seed)


def write(
    address: str,
    count: int,
    label: str | None,
    seed: int,
    out: Path,
    form: Format,
    options: dict[str, Any] | None = None,
) -> str:
    """The same into files, batch by batch; goes on where it was stopped. Returns what was done, in words."""
    product, found = registry.find(address)
    version = mended(found)
    maker = served.loaded(version, options)
    maker.number(label)
    asked = {
        "product": product.name, "version": int(version.version), "files": version.tags.get(FILES),
        "count": count, "label": label, "seed": seed, "format": form, "options": options or {},
    }  # fmt: skip
    done = begun(out, asked)
    began, made = time.monotonic(), 0
    with progress(f"generate {product.name}", count, done * BATCH) as update:
        for batch in maker.batches(count, label, seed, done):
            keep(out, batch, form, maker.card.classes, count)
            if batch.number == 0:
                image.grid(batch.images[: COLUMNS**2], COLUMNS).save(out / "grid.png")
            layout.replace(out / NOTE, json.dumps({**asked, "batches": batch.number + 1}, indent=2) + "\n")
            made += len(batch.images)
            update(min(count, batch.number * BATCH + len(batch.images)), "")
    rate = f", {made / max(time.monotonic() - began, 1e-9):.0f}/s" if made else ", all there before"
    recipe = version.tags["aigc.recipe"]
    return f"{count} images by {product.name} version {version.version} ({recipe}) in {out}{rate}"


def options(given: list[str]) -> dict[str, Any]:
    """``["evaluations=9"]`` to ``{"evaluations": 9}``; raises ``UserError``."""
    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise UserError(f"--option {one}: expected KNOB=VALUE, for example evaluations=9")
        try:
            found[name] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            raise UserError(f"--option {one}: {value!r} is no value") from None
    return found


def begun(out: Path, asked: dict[str, Any]) -> int:
    """How many batches are there already; raises ``UserError`` if what is there is something else."""
    note = out / NOTE
    if not note.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is there already and holds something else; name an empty or a new folder")
        out.mkdir(parents=True, exist_ok=True)
        layout.replace(note, json.dumps({**asked, "batches": 0}, indent=2) + "\n")
        return 0
    try:
        before = json.loads(note.read_text())
        done = int(before.pop("batches"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{note}: does not say what was generated here; name another folder, or remove this one"
        ) from None
    other = [key for key in asked if before.get(key) != asked[key]]
    if other:
        raise UserError(f"{out}: holds images of another {other[0]} ({before.get(other[0])}); name another folder")
    return done


def keep(out: Path, batch: Batch, form: Format, classes: list[str], count: int) -> None:
    """One file an image, NUMBER_CLASS.png, in folders of ``FOLDER`` where there are more; or one array that grows."""
    start = batch.number * BATCH
    if form == "npy":
        for name, values in (("images", batch.images), ("labels", batch.labels)):
            path = out / f"{name}.npy"
            shape = (count, *values.shape[1:])
            mode = "r+" if path.exists() else "w+"
            array = np.lib.format.open_memmap(
                path, mode=mode, dtype=values.dtype, shape=None if mode == "r+" else shape
            )
            array[start : start + len(values)] = values
            array.flush()
        return
    for number, (pixels, label) in enumerate(zip(batch.images, batch.labels, strict=True), start):
        folder = out if count <= FOLDER else out / f"{number // FOLDER:04d}"
        folder.mkdir(exist_ok=True)
        saving.one(folder, form, number, pixels, classes[label] if classes else None)
