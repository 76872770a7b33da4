"""Look at every entry once, in parallel: decode, check, fit, measure.

The unit is a chunk of the raw data set, some hundred entries. What was found in it is kept beside the checkout, under a
name that depends on the chunk's content and on the knobs: a killed run goes on with the next chunk, and a data set that
has grown is looked at where it is new. The results come in the chunks' order, however many processes work.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib.metadata import version
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import ImageStat

from aigc_tasks import layout, lifeline
from aigc_tasks.acquire import raw
from aigc_tasks.clean import Knobs, decoding, fitting, hashes, parts, profile
from aigc_tasks.clean.decoding import Flaw, Picture, decoded, judge
from aigc_tasks.clean.fitting import fitted
from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image
from aigc_tasks.progress import progress

FEW, LITTLE = 2_000, 64 << 20  # entries and bytes, which are looked at here: other processes take a second to start
AHEAD = 4  # chunks given out per process, so that none waits and memory stays flat
HASHED = 16  # pixels of a side; a perceptual hash of a smaller picture tells little
DEADLY = "unreadable (ends the process that decodes it)"
WORKERS = "AIGC_WORKERS"  # how many processes; the result does not depend on it
NOTHING = np.empty((0, 0, 0), np.uint8)
TEXTS = ("id", "source", "label", "split", "file_sha256", "sha256", "reason", "flags", "mode")
NUMBERS = {
    "width": pa.int32(), "height": pa.int32(), "channels": pa.int8(), "brightness": pa.float32(),
    "contrast": pa.float32(), "key": pa.uint64(), "hash": pa.uint64(), "place": pa.int16(),
}  # fmt: skip
SCHEMA = pa.schema(dict.fromkeys(TEXTS, pa.large_string()) | NUMBERS)


def seen(folder: Path, knobs: Knobs, work: Path, label: str) -> Iterator[tuple[raw.Chunk, Path, pa.Table]]:
    """Every chunk of the raw data set in ``folder``, in order, looked at now or before: a row per entry.

    ``work`` keeps the results; the path is that of a chunk's, to which the pixels belong too (``parts``).
    """
    chunks = raw.chunks(folder)
    work.mkdir(parents=True, exist_ok=True)
    side = knobs.size or first_side(folder, chunks, knobs)  # of all, whichever version brought it
    told = knowing(knobs, side)
    paths = [work / name(folder, chunk, told) for chunk in chunks]
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


def knowing(knobs: Knobs, side: Any) -> bytes:
    """All that has a say in what is found in a chunk, beside what is in it."""
    ignored = {"val", "test", "seed", "survive", "distance"}
    modules = (sys.modules[__name__], decoding, fitting, hashes, profile, image)
    code = [Path(str(module.__file__)).read_bytes() for module in modules]
    libraries = [version(library) for library in ("imagehash", "numpy", "pillow", "scipy")]
    return json.dumps([side, knobs.model_dump(mode="json", exclude=ignored), libraries]).encode() + b"".join(code)


def name(folder: Path, chunk: raw.Chunk, told: bytes) -> str:
    """Of a chunk's results: a hash of ``knowing`` and of everything in the chunk.

    Contents go into it by their own hashes, so that they need not be read.
    """
    columns = ["id", "source", "label", "split", "sha256", "flaw", "gone"]
    rows = raw.opened(folder / chunk.file).read_row_group(chunk.group, columns)
    return hashlib.sha256(json.dumps(rows.to_pydict()).encode() + told).hexdigest()[:24]


def first_side(folder: Path, chunks: list[raw.Chunk], knobs: Knobs) -> tuple[int, int] | None:
    """Width and height of the first usable picture by id: without a size to fit to, all must have its."""
    replaced = raw.superseded(folder)
    places: list[tuple[str, int]] = []
    for number, chunk in enumerate(chunks):
        table = raw.opened(folder / chunk.file).read_row_group(chunk.group, ["id", "flaw", "gone"])
        live = table.filter(pc.and_(pc.is_null(table["flaw"]), pc.invert(table["gone"])))["id"].to_pylist()
        places += [(id, number) for id in live if id not in replaced.get(chunk.file, ())]
    places.sort()
    for id, number in places:
        row = next(row for row in raw.read(folder, chunks[number]) if row.id == id)
        with suppress(Flaw):
            return opened(row, knobs).pixels.size
    return None


def looked_at(folder: Path, missing: list[tuple[raw.Chunk, Path]], knobs: Knobs, side: Any) -> Iterator[None]:
    """Look at the chunks, in order, as many at a time as there are cores; raises ``UserError``."""
    cores = workers()
    rows, size = sum(chunk.rows for chunk, _ in missing), sum(chunk.bytes for chunk, _ in missing)
    if cores == 1 or (rows <= FEW and size <= LITTLE):
        for chunk, path in missing:
            look(folder, chunk, path, knobs, side)
            yield
        return
    waiting, running = deque(missing), deque[tuple[Future[None], raw.Chunk, Path]]()
    pool = processes(cores)
    try:
        while waiting or running:
            try:
                with lifeline.undisturbed():
                    while waiting and len(running) < AHEAD * cores:
                        running.append((pool.submit(look, folder, *waiting[0], knobs, side), *waiting[0]))
                        waiting.popleft()
                running[0][0].result()
                running.popleft()
            except BrokenProcessPool:
                pool.shutdown()
                waiting.extendleft((chunk, path) for _, chunk, path in reversed(running))
                running.clear()
                look_carefully(folder, *waiting.popleft(), knobs, side)
                pool = processes(cores)
            yield
    finally:
        for process in active_children() if running else ():  # they would first finish what they have been given
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def workers() -> int:
    """How many processes look; raises ``UserError``."""
    given = os.environ.get(WORKERS) or str(len(os.sched_getaffinity(0)))
    if not given.isdecimal() or not int(given):
        raise UserError(f"{WORKERS}: expected a whole number from 1, got {given!r}; correct it, or unset it")
    return int(given)


def processes(count: int) -> ProcessPoolExecutor:
    context = get_context("spawn")  # a copy of a process with threads may hang
    return ProcessPoolExecutor(count, context, initializer=lifeline.end_with_parent, initargs=(os.getpid(),))


def look_carefully(folder: Path, chunk: raw.Chunk, path: Path, knobs: Knobs, side: Any) -> None:
    """Look at a chunk that may hold what ends the process that decodes it, and find that out by halving."""
    deadly: frozenset[int] = frozenset()
    while not survived(look, folder, chunk, path, knobs, side, deadly):
        low, high = 0, chunk.rows
        while high - low > 1:
            middle = (low + high) // 2
            if survived(try_rows, folder, chunk, knobs, side, set(range(low, middle)) - deadly):
                low = middle
            else:
                high = middle
        if low in deadly:
            raise UserError(
                f"processes that look at pictures are ended by the system; free some memory, or {WORKERS}=1"
            )
        deadly |= {low}


def survived(function: Callable[..., None], *arguments: Any) -> bool:
    """Whether a process of its own lives through the call."""
    with processes(1) as pool:
        with lifeline.undisturbed():
            call = pool.submit(function, *arguments)
        try:
            call.result()
        except BrokenProcessPool:
            return False
    return True


def try_rows(folder: Path, chunk: raw.Chunk, knobs: Knobs, side: Any, numbers: set[int]) -> None:
    for number, row in enumerate(raw.read(folder, chunk)):
        if number in numbers and not row.gone:
            examined(row, knobs, side)


def look(
    folder: Path, chunk: raw.Chunk, path: Path, knobs: Knobs, side: Any, deadly: frozenset[int] = frozenset()
) -> None:
    """Write what is in one chunk; a reader sees all of it or nothing. The rows of ``deadly`` are not decoded."""
    rows: list[dict[str, Any]] = []
    found: list[tuple[Picture, np.ndarray]] = []
    for number, row in enumerate(raw.read(folder, chunk)):
        if not row.gone:
            row = row._replace(content=None, flaw=DEADLY) if number in deadly else row
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
    compared = [picture.pixels for picture, _ in found] if knobs.checks.near_duplicate != "off" else []
    measured(rows, embedding, hashes.perceptual(compared))
    for facts in rows:
        if facts["place"] >= 0:
            judged(facts, found[facts["place"]][0], knobs)
    pixels_file, embedding_file, table = parts.files(path)
    for file, array in ((pixels_file, stacked), (embedding_file, embedding)):
        parts.save(file, array)
    with layout.written(table) as unfinished:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), unfinished)


def examined(row: raw.Row, knobs: Knobs, side: Any) -> tuple[dict[str, Any], Picture | None, np.ndarray]:
    """What is known of one entry, its picture if there is any to use, and its fitted pixels, uint8 C×H×W."""
    facts: dict[str, Any] = {
        **dict.fromkeys(SCHEMA.names), "id": row.id, "source": row.source, "label": row.label, "split": row.split,
        "file_sha256": row.sha256 or None, "reason": row.flaw, "flags": "", "key": 0, "hash": 0,
    }  # fmt: skip
    if row.content is None:
        return facts, None, NOTHING
    try:
        found = opened(row, knobs)
        facts |= {"mode": found.mode, "width": found.size[0], "height": found.size[1]}
        small = fitted(found.pixels, knobs, found.margins)
        if knobs.size is None and small.size != side:
            raise Flaw(f"size differs ({small.width}×{small.height})")
    except Flaw as flaw:
        return {**facts, "reason": str(flaw)}, None, NOTHING
    if knobs.colour != "auto":
        small = small.convert({"grey": "L", "rgb": "RGB"}[knobs.colour])
    content = small.tobytes()
    digest = hashes.fingerprint(small, content)
    facts |= {"sha256": digest, "key": int(digest[:16], 16), "channels": len(small.getbands())}
    shape(found, knobs)
    if knobs.crop == "pad":  # the black beside a picture would be taken for contrast
        found.contrast = max(0.0, mean(ImageStat.Stat(found.pixels).var)) ** 0.5  # rounded, it may be below 0
    found.pixels = small  # a chunk of whole photographs would fill the memory
    pixels = np.frombuffer(content, np.uint8).reshape(small.height, small.width, -1)
    return facts, found, pixels.transpose(2, 0, 1)


def measured(rows: list[dict[str, Any]], embedding: np.ndarray, perceptual: np.ndarray) -> None:
    """Fill in what is measured of all pictures of a chunk at once, which takes a fraction of one by one.

    Brightness is the mean of all levels, 0…255; contrast the standard deviation around each channel's mean, 0…127.5.
    """
    means, deviations = embedding[:, -6:-3].astype(np.float64), embedding[:, -3:].astype(np.float64)
    brightness = (255 * means.mean(axis=1)).tolist()
    contrast = (255 * np.sqrt((deviations**2).mean(axis=1))).tolist()
    known = perceptual.tolist()
    for facts in rows:
        if (place := facts["place"]) >= 0:
            facts |= {"brightness": brightness[place], "contrast": contrast[place]}
            if known and min(facts["width"], facts["height"]) >= HASHED:
                facts["hash"] = known[place]


def judged(facts: dict[str, Any], found: Picture, knobs: Knobs) -> None:
    """Fill in what was found wrong."""
    contrast = facts["contrast"] if found.contrast is None else found.contrast
    if contrast < knobs.contrast:
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
    return Picture(pixels, pixels.mode, pixels.size)


def shape(found: Picture, knobs: Knobs) -> None:
    """Judge width and height."""
    width, height = found.size
    shorter, longer = sorted(found.size)
    if shorter < knobs.smallest:
        judge(found, knobs.checks.too_small, "too small", f"{width}×{height}")
    if longer > knobs.aspect * shorter:
        judge(found, knobs.checks.extreme_aspect, "extreme aspect", f"{width}×{height}")
