"""A trained model as MLflow serves it: rows of (label, count, seed) in, images out.

MLflow stores this file as source ("models from code") beside the package and the safetensors file: nothing is pickled,
and ``mlflow.pyfunc.load_model`` needs neither this checkout nor this package installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from aigc_tasks.model import Sampler


class ServedModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        self.sampler = Sampler(Path(context.artifacts["model"]))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> np.ndarray:
        """uint8 N×C×H×W, ``count`` images (default 1) of class ``label`` (default the first) for every row in turn.

        Raises ``ValueError`` for a label that the model has not learned.
        """
        classes = self.sampler.card.classes
        images = []
        for row in model_input.to_dict("records"):
            label = str(row.get("label", classes[0] if classes else ""))
            if classes and label not in classes:
                raise ValueError(f"label: there is no {label!r}; known are {', '.join(classes)}")
            numbers = np.full(int(row.get("count", 1)), classes.index(label) if classes else 0)
            images.append(self.sampler.sample(numbers, int(row.get("seed", 0))))
        return np.concatenate(images)


mlflow.models.set_model(ServedModel())
