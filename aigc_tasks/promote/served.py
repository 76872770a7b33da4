"""Is the version, as MLflow serves it, what was measured, and quick enough? Asked in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aigc_tasks import layout, tracking
from aigc_tasks.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from aigc_tasks.product import Maker

PRODUCT = "product"  # the name that its folder is logged under
NEEDED = ("model.json", "model.safetensors", "quality.json")  # of its files, to draw with it and to compare it
LOADING = 300.0  # seconds that loading may take
PROGRAM = """
import hashlib, json, sys, time
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = pandas.DataFrame({"count": [int(sys.argv[2])], "seed": [0]})
model.predict(rows.assign(count=1))
began = time.perf_counter()
images = model.predict(rows)
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "digest": hashlib.sha256(images.tobytes()).hexdigest()}))
"""


class Served(NamedTuple):
    """How long so many images took, or why there are none; and whether they are the checkout's, bit for bit."""

    seconds: float = 0.0
    same: bool = False
    trouble: str = ""


def ask(version: ModelVersion, images: int, seconds: float) -> Served:
    """Load the version as a server would, outside the checkout, and let it make some images twice."""
    expected = hashlib.sha256(loaded(version).images(images)[0].tobytes()).hexdigest()
    command = [sys.executable, "-I", "-c", PROGRAM, f"models:/{version.name}/{version.version}", str(images)]
    with tempfile.TemporaryDirectory() as elsewhere:
        env = {**os.environ, "MLFLOW_TRACKING_URI": tracking.tracking_uri()}
        try:
            done = subprocess.run(
                command, cwd=elsewhere, env=env, capture_output=True, text=True, timeout=LOADING + 3 * seconds
            )
        except subprocess.TimeoutExpired:
            return Served(trouble=f"it had not answered after {LOADING + 3 * seconds:.0f} s")
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        return Served(trouble=said[-1])
    answer = json.loads(done.stdout.splitlines()[-1])
    return Served(answer["seconds"], answer["digest"] == expected)


def loaded(version: ModelVersion, options: dict[str, Any] | None = None) -> Maker:
    """What makes the version's images; raises ``UserError``, also where this checkout's code cannot use another's."""
    from aigc_tasks.product import Maker  # imports torch

    place = folder(version)
    try:
        return Maker(place, options)
    except UserError:
        raise
    except Exception as error:  # pydantic's or torch's
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{version.name} version {version.version} cannot be loaded by the code as it is now ({said}); go back to "
            "the code that made it, or delete the version in MLflow: the product goes on without it"
        ) from None


def folder(version: ModelVersion) -> Path:
    """The product that the version is; raises ``UserError`` if the store has not all of it."""
    place = root(version) / "artifacts" / PRODUCT
    if gone := missing(place):
        raise UserError(
            f"{version.name} version {version.version}: {', '.join(gone)} missing in {location(logged(version))}; put "
            "back what was deleted there, or delete the version and its model in MLflow: the product goes on without it"
        )
    return place


def missing(place: Path) -> list[str]:
    """Which of the files that a product needs are not in its folder."""
    return [name for name in NEEDED if not (place / name).is_file()]


def root(version: ModelVersion) -> Path:
    """All files of the version, as a server loads them. What is not on this machine is fetched once."""
    model = logged(version)
    place = Path(location(model).removeprefix("file://"))
    if place.is_dir():
        return place
    kept = layout.LOCAL / "products" / model
    if missing(kept / "artifacts" / PRODUCT):  # or it was fetched from a store that had not all of it
        with layout.written_whole(kept) as target:
            fetch(model, target)
    return kept


def logged(version: ModelVersion) -> str:
    """MLflow's id of the logged model that the version is."""
    return str(version.source).removeprefix("models:/")


def location(model: str) -> str:
    """Where the store keeps a logged model; raises ``UserError`` if it does not know it."""
    from mlflow.exceptions import MlflowException

    try:
        return str(tracking.open_client().get_logged_model(model).artifact_location)
    except MlflowException as error:
        raise UserError(f"the store has no model {model}: {str(error).splitlines()[0]}") from None


def fetch(model: str, target: Path) -> None:
    """Bring a logged model's files into a folder, from wherever the store keeps them; raises ``UserError``."""
    import mlflow

    place = Path(location(model).removeprefix("file://"))
    if place.is_dir():
        shutil.copytree(place, target, dirs_exist_ok=True)
        return
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=location(model) + "/", dst_path=str(target))
    except Exception as error:  # of any store's library
        said = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"the files of model {model} cannot be had: {said[0]}") from None
    if not any(target.iterdir()):  # of some stores that is no error
        raise UserError(f"the files of model {model} are not in the store; put them back at {location(model)}")
