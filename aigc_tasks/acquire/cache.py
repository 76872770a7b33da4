"""What DVC's cache holds of a raw data set that is not here: a fresh clone has only its hash, in ``dvc.lock``."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from ruamel.yaml import YAML

from aigc_tasks import layout


def restore(folder: Path) -> None:
    """Bring the folder back as ``dvc.lock`` records it, so that the next version continues the last one.

    It is not DVC that does so: DVC is locked while it runs a stage. Where its cache lacks a file, one line says that
    the versions begin again.
    """
    lock = Path("dvc.lock")
    if folder.exists() or not lock.exists():
        return
    stage = YAML(typ="safe").load(lock).get("stages", {}).get(f"acquire@{folder.name}", {})
    recorded = next((out.get("md5") for out in stage.get("outs", []) if out["path"] == folder.as_posix()), None)
    if recorded is None:
        return
    from dvc.repo import Repo  # takes a second

    cache = Repo().cache.local
    try:
        with layout.written_whole(folder) as new:
            for file in json.loads(Path(cache.oid_to_path(recorded)).read_bytes()):
                copy = shutil.copyfile(cache.oid_to_path(file["md5"]), new / Path(file["relpath"]).name)
                with open(copy, "rb") as content:
                    if hashlib.file_digest(content, "md5").hexdigest() != file["md5"]:
                        raise ValueError(f"{copy.name} is damaged")
    except (FileNotFoundError, ValueError):
        print(f"{folder}: not here, nor whole in DVC's cache: its versions begin again at 1")
        print(f"to keep those that dvc.lock records, `dvc pull acquire@{folder.name}` before the next `dvc repro`")
