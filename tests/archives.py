"""Folders and archives to take in."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any


def fill(place: Path, content: dict[str, bytes]) -> Path:
    """A folder with these files in it."""
    place.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def zipped(content: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    """A zip file; a list may have several members of one name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items() if isinstance(content, dict) else content:
            archive.writestr(name, data)
    return file.getvalue()


def tarred(content: dict[str, bytes], packing: Any = "w:gz") -> bytes:
    """A tar file; ``packing`` is the mode in which it is written."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=packing) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def packing(name: str) -> Any:
    """The mode in which tarfile writes it."""
    return {".tar": "w", ".bz2": "w:bz2"}.get(Path(name).suffix, "w:gz")


def packed(path: Path, content: dict[str, bytes]) -> Path:
    """An archive of these files, of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zipped(content) if path.suffix == ".zip" else tarred(content, packing(path.name)))
    return path
