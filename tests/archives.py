"""Archives to take in."""

from __future__ import annotations

import io
import tarfile
import zipfile
from typing import Any


def zipped(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
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
