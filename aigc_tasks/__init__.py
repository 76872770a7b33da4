"""The work of the pipeline, in the order the data goes: acquire, clean, train, postprocess, evaluate.

Every stage is a package run as ``python -m aigc_tasks.STAGE NAME``, which is exactly what ``dvc.yaml`` does. Nothing
here imports Prefect.
"""

import os
import sys
from importlib.util import find_spec

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""No network call that the user did not ask for. Set here because these libraries look when they are imported."""

ALONE = {"OPENBLAS_NUM_THREADS": "1"}
"""Threads of numpy's wait for each other: on two cores, beside another process, a small matrix product takes 30 times
as long. And how many there are changes the rounding. Those of torch are a knob of the stages, ``threads``."""

for _name, _value in (QUIET | ALONE).items():
    os.environ.setdefault(_name, _value)

# `.venv/bin/dvc repro` without activating .venv: DVC's shell finds another python, which lacks what we need.
_own = os.path.abspath(".venv/bin/python")  # noqa: PTH100 (before anything is known of this python)
_lacking = any(find_spec(package) is None for package in ("dvc", "mlflow", "safetensors", "torch"))
if _lacking and "DVC_STAGE" in os.environ and os.path.exists(_own):  # noqa: PTH110
    os.execv(_own, [_own, *sys.orig_argv[1:]])  # noqa: S606
