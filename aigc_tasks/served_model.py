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
                options = json.loads(given.get("options", "{}"))
                if not isinstance(options, dict):
                    raise UserError(f"options: expected knobs and values as JSON, got {given['options']}")
                maker = Maker(self.folder, options) if options else self.maker
                label = str(given["label"]) if "label" in given and self.maker.card.classes else None
                count = int(given.get("count", 1))
                if count < 1:
                    raise UserError(f"count: expected a whole number from 1, got {count}")
                images.append(maker.images(count, label, int(given.get("seed", 0)))[0])
            except (UserError, ValueError) as error:
                raise ValueError(f"{error}") from None
        if not images:
            raise ValueError('no rows: give at least one, for example {"count": 1}')
        return np.concatenate(images)


mlflow.models.set_model(ServedModel())
