"""Look at every entry once, in parallel: decode, check, fit, measure.

The unit is a chunk of the raw data set, some hundred entries. What was found in it is kept beside the checkout, under a
name that depends on the chunk's content and on the knobs: a killed run goes on with the next chunk, and a data set that
has grown is looked at where it is new. The results come in the chunks' order, however many processes work.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from aigc_tasks import layout, lifeline
from aigc_tasks.acquire import raw
from aigc_tasks.clean import Knobs, parts, profile
from aigc_tasks.clean.decoding import Flaw, Picture, decoded, judge
from aigc_tasks.clean.fitting import fitted
from aigc_tasks.modalities import image
from aigc_tasks.progress import progress

FEW = 2_000  # entries; fewer are looked at here: other processes take a second to start
AHEAD = 4  # chunks given out per process, so that none waits and memory stays flat
HASHED = 16  # pixels of a side; a perceptual hash of a smaller picture tells little
WORKERS = "AIGC_WORKERS"  # how many processes; the result does not depend on it
NOTHING = np.empty((0, 0, 0), np.uint8)
COLUMNS = {
    "id": "str", "source": "str", "label": "str", "split": "str", "file_sha256": "str", "sha256": "str",
    "reason": "str", "flags": "str", "mode": "str", "width": "Int32", "height": "Int32", "channels": "Int8",
    "brightness": "float32", "contrast": "float32", "key": "uint64", "hash": "uint64", "place": "int32",
}  # fmt: skip


def seen(folder: Path, knobs: Knobs, work: Path, label: str) -> Iterator[tuple[raw.Chunk, Path, pa.Table]]:
    """Every chunk of the raw data set in ``folder``, in order, looked at now or before: a row per entry.

    ``work`` keeps the results; the path is that of a chunk's, to which the pixels belong too (``parts``).
    """
    chunks = raw.chunks(folder)
    work.mkdir(parents=True, exist_ok=True)
    side = knobs.size or first_side(folder, chunks, knobs)
    paths = [work / name(folder, chunk, knobs, side) for chunk in chunks]
    for old in set(work.iterdir()) - {file for path in paths for file in parts.files(path)}:
        old.unlink()
    missing = [number for number, path in enumerate(paths) if not all(map(Path.exists, parts.files(path)))]
    done, total = 0, sum(chunk.rows for chunk in chunks)
    with progress(label, total) as update:
        work_on = looked_at(folder, [(chunks[number], paths[number]) for number in missing], knobs, side)
        waiting = set(missing)
        for number, (chunk, path) in enumerate(zip(chunks, paths, strict=True)):
            if number in waiting:
                next(work_on)
            done += chunk.rows
            update(done, f"{len(missing)} of {len(chunks)} chunks new")
            yield chunk, path, pq.read_table(parts.files(path)[-1])


def name(folder: Path, chunk: raw.Chunk, knobs: Knobs, side: Any) -> str:
    """Of a chunk's results: a hash of what is in it and of all that has a say in what is found."""
    ignored = {"val", "test", "seed", "survive", "distance"}
    code = [Path(__file__).with_name(f"{module}.py").read_bytes() for module in ("looking", "decoding", "fitting")]
    facts = [said(folder, chunk), side, knobs.model_dump(mode="json", exclude=ignored), version("pillow")]
    return hashlib.sha256(json.dumps(facts).encode() + b"".join(code)).hexdigest()[:24]


def said(folder: Path, chunk: raw.Chunk) -> str:
    """A hash of everything in the chunk: contents go into it by their own hashes, so that they need not be read."""
    columns = ["id", "source", "label", "split", "sha256", "flaw", "gone"]
    rows = raw.opened(folder / chunk.file).read_row_group(chunk.group, columns).to_pylist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def first_side(folder: Path, chunks: list[raw.Chunk], knobs: Knobs) -> tuple[int, int] | None:
    """Width and height of the first usable picture: without a size to fit to, all must have its."""
    for chunk in chunks:
        for row in raw.read(folder, chunk):
            if row.content is not None:
                try:
                    return opened(row, knobs).pixels.size
                except Flaw:
                    continue
    return None


def looked_at(folder: Path, missing: list[tuple[raw.Chunk, Path]], knobs: Knobs, side: Any) -> Iterator[None]:
    """Look at the chunks, in order, as many at a time as there are cores."""
    cores = int(os.environ.get(WORKERS, 0)) or len(os.sched_getaffinity(0))
    if cores == 1 or sum(chunk.rows for chunk, _ in missing) <= FEW:
        for chunk, path in missing:
            look(folder, chunk, knobs, side, path)
            yield
        return
    context = get_context("spawn")  # a copy of a process with threads may hang
    pool = ProcessPoolExecutor(cores, context, initializer=lifeline.end_with_parent, initargs=(os.getpid(),))
    running: deque[Future[None]] = deque()
    try:
        for chunk, path in missing:
            running.append(pool.submit(look, folder, chunk, knobs, side, path))
            if len(running) >= AHEAD * cores:
                running.popleft().result()
                yield
        while running:
            running.popleft().result()
            yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def look(folder: Path, chunk: raw.Chunk, knobs: Knobs, side: Any, path: Path) -> None:
    """Write what is in one chunk; a reader sees all of it or nothing."""
    rows: list[dict[str, Any]] = []
    found: list[tuple[Picture, np.ndarray]] = []
    for row in raw.read(folder, chunk):
        if not row.gone:
            facts, picture, pixels = examined(row, knobs, side)
            facts["place"] = len(found) if picture else -1
            if picture:
                found.append((picture, pixels))
            rows.append(facts)
    channels = max((len(pixels) for _, pixels in found), default=1)
    size = found[0][1].shape[1:] if found else (1, 1)
    stacked = np.empty((len(found), channels, *size), np.uint8)
    for place, (_, pixels) in enumerate(found):
        stacked[place] = pixels  # a grey one among colours is repeated
    embedding = profile.embedding(image.coloured(stacked, 3))
    for facts in rows:
        if facts["place"] >= 0:
            picture = found[facts["place"]][0]
            judged(facts, picture, embedding[facts["place"]], knobs)
    pixels_file, embedding_file, table = parts.files(path)
    for file, array in ((pixels_file, stacked), (embedding_file, embedding)):
        with layout.written(file) as unfinished:
            np.save(unfinished, array, allow_pickle=False)
    with layout.written(table) as unfinished:
        pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS).to_parquet(unfinished, index=False)


def examined(row: raw.Row, knobs: Knobs, side: Any) -> tuple[dict[str, Any], Picture | None, np.ndarray]:
    """What is known of one entry, its picture if there is any to use, and its fitted pixels, uint8 C×H×W."""
    facts: dict[str, Any] = {
        **dict.fromkeys(COLUMNS), "id": row.id, "source": row.source, "label": row.label, "split": row.split,
        "file_sha256": row.sha256 or None, "reason": row.flaw, "flags": "", "key": 0, "hash": 0,
    }  # fmt: skip
    if row.content is None:
        return facts, None, NOTHING
    try:
        found = opened(row, knobs)
        facts |= {"mode": found.mode, "width": found.pixels.width, "height": found.pixels.height}
        small = fitted(found.pixels, knobs)
        if knobs.size is None and small.size != side:
            raise Flaw(f"size differs ({small.width}×{small.height})")
    except Flaw as flaw:
        return {**facts, "reason": str(flaw)}, None, NOTHING
    if knobs.colour != "auto":
        small = small.convert({"grey": "L", "rgb": "RGB"}[knobs.colour])
    digest = fingerprint(found.pixels)
    facts |= {"sha256": digest, "key": int(digest[:16], 16), "channels": len(small.getbands())}
    if knobs.checks.near_duplicate != "off" and min(found.pixels.size) >= HASHED:
        facts["hash"] = perceptual(small)
    shape(found, knobs)
    pixels = np.asarray(small)
    return facts, found, pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def judged(facts: dict[str, Any], found: Picture, embedding: np.ndarray, knobs: Knobs) -> None:
    """Fill in what the embedding measures, and what was found wrong.

    Brightness is the mean of all levels, 0…255; contrast the standard deviation around each channel's mean, 0…127.5.
    """
    means, deviations = embedding[-6:-3].astype(np.float64), embedding[-3:].astype(np.float64)
    facts |= {"brightness": 255 * means.mean(), "contrast": 255 * np.sqrt((deviations**2).mean())}
    if facts["contrast"] < knobs.contrast:
        judge(found, knobs.checks.blank, "blank")
    facts |= {"reason": found.reason, "flags": "; ".join(found.flags)}


def opened(row: raw.Row, knobs: Knobs) -> Picture:
    """The entry's picture; raises ``Flaw``."""
    assert row.content is not None
    if isinstance(row.content, bytes):
        return decoded(row.content, row.id, knobs)
    if row.content.dtype != np.uint8:
        raise Flaw(f"unreadable (pixels are {row.content.dtype}, not 8-bit)")
    pixels = image.picture(row.content)
    return Picture(pixels, pixels.mode)


def shape(found: Picture, knobs: Knobs) -> None:
    """Judge width and height."""
    width, height = found.pixels.size
    shorter, longer = sorted(found.pixels.size)
    if shorter < knobs.smallest:
        judge(found, knobs.checks.too_small, "too small", f"{width}×{height}")
    if longer > knobs.aspect * shorter:
        judge(found, knobs.checks.extreme_aspect, "extreme aspect", f"{width}×{height}")


def fingerprint(picture: Image.Image) -> str:
    """SHA-256 of shape and pixels, whatever file they came in."""
    digest = hashlib.sha256(repr((len(picture.getbands()), picture.height, picture.width)).encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def perceptual(picture: Image.Image) -> int:
    """The 64 bits of imagehash's pHash: signs of the lowest frequencies of a 32×32 grey version."""
    from imagehash import phash

    return int.from_bytes(np.packbits(phash(picture).hash).tobytes())
