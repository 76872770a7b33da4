"""Is the version, as MLflow serves it, what was measured, and quick enough? Asked in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aigc_tasks import layout, tracking
from aigc_tasks.errors import UserError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

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
    from aigc_tasks.product import Maker

    expected = hashlib.sha256(Maker(folder(version)).images(images)[0].tobytes()).hexdigest()
    command = [sys.executable, "-I", "-c", PROGRAM, f"models:/{version.name}/{version.version}", str(images)]
    with tempfile.TemporaryDirectory() as elsewhere:
        env = {**os.environ, "MLFLOW_TRACKING_URI": tracking.tracking_uri(), "HOME": elsewhere}
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


def folder(version: ModelVersion) -> Path:
    """Where the version's files lie; those of a store that is not here are fetched once. Raises ``UserError``."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = tracking.open_client()
    model = str(version.source).removeprefix("models:/")
    kept = layout.LOCAL / "products" / model / "product"
    if kept.is_dir():
        return kept
    try:
        place = client.get_logged_model(model).artifact_location.removeprefix("file://")
        here = Path(place, "artifacts", "product")
        if here.is_dir():
            return here
        with layout.written_whole(kept.parent) as target:
            mlflow.artifacts.download_artifacts(f"models:/{model}/artifacts/product", dst_path=str(target))
    except (MlflowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{version.name} version {version.version}: its files cannot be had: {said}") from None
    return kept
