"""On ``PYTHONPATH``, has every process of a stage note at its end which files it imported, in ``IMPORTED/STAGE``."""

import atexit
import os
import sys


def note() -> None:
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    with open(f"{os.environ['IMPORTED']}/{os.environ['DVC_STAGE']}", "a") as notes:
        notes.writelines(f"{file}\n" for file in files if file)


if "DVC_STAGE" in os.environ:
    atexit.register(note)
