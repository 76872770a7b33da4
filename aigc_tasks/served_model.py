"""A product as MLflow serves it: rows of (label, count, seed, options) in, images out.

MLflow stores this file as source ("models from code") beside the package and the safetensors file: nothing is pickled,
and ``mlflow.pyfunc.load_model`` needs neither this checkout nor this package installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from aigc_tasks.errors import UserError
from aigc_tasks.product import Maker


class ServedModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        self.folder = Path(context.artifacts["model"])
        self.maker = Maker(self.folder)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> np.ndarray:
        """uint8 N×C×H×W: for every row in turn ``count`` images (default 1) of class ``label`` (default all of them).

        ``options`` are knobs of the sampler as JSON, say ``{"evaluations": 9}``. Raises ``ValueError`` for a row that
        asks for what there is not.
        """
        images = []
        for row in model_input.to_dict("records") or [{}] * len(model_input):
            given = {key: value for key, value in row.items() if not pd.isna(value)}
            try:
                options = knobs(given.get("options", "{}"))
                maker = Maker(self.folder, options) if options else self.maker
                label = str(given["label"]) if "label" in given and self.maker.card.classes else None
                count, seed = whole("count", given.get("count", 1), 1), whole("seed", given.get("seed", 0), 0)
                images.append(maker.images(count, label, seed)[0])
            except UserError as error:
                raise ValueError(f"{error}") from None
        if not images:
            raise ValueError('no rows: give at least one, for example {"count": 1}')
        return np.concatenate(images)


def knobs(given: str) -> dict[str, Any]:
    """What JSON in a row says; here and below raises ``UserError``."""
    try:
        found = json.loads(given)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"options: expected knobs and values as JSON, got {given}")
    return found


def whole(name: str, given: Any, least: int) -> int:
    """A number in a row: 3, or 3.0, as pandas has it in a column with gaps, or text that says so."""
    try:
        found = int(given)
    except (ValueError, TypeError, OverflowError):
        found = least - 1
    if found < least or (not isinstance(given, str) and found != given):
        raise UserError(f"{name}: expected a whole number from {least}, got {given}")
    return found


mlflow.models.set_model(ServedModel())
