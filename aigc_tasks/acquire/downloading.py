"""A remote file brought here whole, however often the connection breaks or the process is killed."""

from __future__ import annotations

import filecmp
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from aigc_tasks.acquire.places import name
from aigc_tasks.acquire.remote import filesystem, opened
from aigc_tasks.acquire.unreachable import Broken, Unreachable, retried
from aigc_tasks.progress import progress


def download(
    url: str, into: Path, md5: str | None = None, sha256: str | None = None, options: dict[str, Any] | None = None
) -> Path:
    """Fetch ``url`` into the folder ``into`` under its own name and return the path; raises ``UserError``.

    A killed download goes on where it was, if the server can and the file there is still the same. A file that is here
    already and whole is not fetched again. ``options`` go to fsspec. A small hidden file keeps the version.
    """
    into.mkdir(parents=True, exist_ok=True)
    final = into / name(url)
    sums = checksums(md5, sha256)
    if sums and final.exists() and not mismatch(final, sums):
        return final
    unfinished = final.with_name(f"{final.name}.part")
    while True:
        had = length(unfinished)
        try:
            retried(partial(fetch, url, final, sums, options), url)
            return final
        except Unreachable:
            if length(unfinished) <= had:  # as long as a round of tries brings some bytes, it goes on
                raise


def checksums(md5: str | None, sha256: str | None) -> dict[str, str]:
    return {kind: value.lower() for kind, value in (("md5", md5), ("sha256", sha256)) if value}


def mismatch(file: Path, sums: dict[str, str]) -> str | None:
    """What is wrong with the file's checksums."""
    for kind, expected in sums.items():
        with open(file, "rb") as content:
            found = hashlib.file_digest(content, kind).hexdigest()
        if found != expected:
            return f"its {kind} is {found}, not {expected}"
    return None


def length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def fetch(url: str, final: Path, sums: dict[str, str], options: dict[str, Any] | None) -> None:
    """One try of ``download``. The .part file and the note of its version stay where it fails."""
    part, note = final.with_name(f"{final.name}.part"), final.with_name(f".{final.name}.version")
    known = note.read_text() if note.exists() else ""
    # The last byte is asked for again: a range that begins at the end of a file is an error.
    start = max(length(part) - 1, 0) if known and not final.exists() else 0
    with opened(*filesystem(url, options), options, start) as stream:
        version = stream.stamp or ("" if stream.size is None else f"{stream.size} bytes")
        if final.exists() and version == known and stream.size == length(final) and not sums:
            return
        if stream.start and version != known:
            part.unlink()
            raise Broken("changed since the download began")
        if not stream.start:
            if version:
                final.unlink(missing_ok=True)
            part.unlink(missing_ok=True)
            note.write_text(version)
        with open(part, "ab") as file, progress(f"download {final.name}", stream.size or 0, stream.start) as update:
            block = stream.file.read(1 << 20)  # before anything is given up of what came earlier
            file.truncate(stream.start)
            while block:
                file.write(block)
                update(file.tell(), "bytes")
                block = stream.file.read(1 << 20)
    if stream.size is not None and length(part) != stream.size:
        raise Broken(f"{length(part):,} of {stream.size:,} bytes came")
    if wrong := mismatch(part, sums):
        part.unlink()
        if stream.start:
            raise Broken(wrong)
        raise Unreachable(url, wrong, "correct the checksum, or the file there")
    if final.exists() and filecmp.cmp(part, final, shallow=False):  # of a server that told no version
        part.unlink()  # and not put in its place: what was listed would count as changed
    else:
        part.replace(final)
