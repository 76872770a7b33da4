"""What cleaning costs: memory against the number of files, and time against decoding and resizing alone.

``python -m benchmarks.data [--few N] [--many N]`` draws JPEG files into a temporary project, acquires and cleans them
by the stages' own commands, and samples the memory of every process that takes part. ``plain`` decodes and resizes the
same files with Pillow in as many processes and does nothing else. All in one run.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import chdir
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageOps
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
SIDE, SIZE = 256, 64  # pixels: of a file, and of what it becomes
FOLDER = 1_000  # files in one
LOOK = 0.05  # seconds between two looks at the memory


def draw(folder: Path, number: int) -> None:
    """A smooth colour picture that no other number gives, as a camera's JPEG."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture = small.resize((SIDE, SIDE * 3 // 4), Image.Resampling.BICUBIC).effect_spread(2)
    path = folder / f"{number // FOLDER:03d}" / f"{number:06d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=85)


def fitted(path: Path) -> bytes:
    """Decode and resize, as plainly as can be."""
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        return np.asarray(ImageOps.fit(picture.convert("RGB"), (SIZE, SIZE), Image.Resampling.LANCZOS)).tobytes()


def plain(folder: Path, cores: int) -> float:
    """Seconds to decode, resize and write all files."""
    files, began = sorted(folder.rglob("*.jpg")), time.perf_counter()
    with Pool(cores) as pool, open(folder.parent / "plain.bin", "wb") as target:
        for pixels in pool.imap(fitted, files, chunksize=64):
            target.write(pixels)
    return time.perf_counter() - began


def stage(*command: str) -> tuple[float, float, float]:
    """Seconds and the peaks of memory in MiB, of the stage's own process and of all that it starts together."""
    child = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
    peaks, ended, began = [0.0, 0.0], threading.Event(), time.perf_counter()

    def look() -> None:
        while not ended.wait(LOOK):
            sizes = list(sizes_of(child.pid))
            peaks[0], peaks[1] = max(peaks[0], sizes[0] if sizes else 0), max(peaks[1], sum(sizes))

    watcher = threading.Thread(target=look)
    watcher.start()
    code = child.wait()
    seconds = time.perf_counter() - began
    ended.set()
    watcher.join()
    if code:
        sys.exit(f"{command} ended with {code}")
    return seconds, peaks[0] / 2**20, peaks[1] / 2**20


def sizes_of(pid: int) -> Iterator[int]:
    """Resident bytes of a process and of those below it."""
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            yield one.memory_info().rss
    except psutil.NoSuchProcess:
        return


def project(folder: Path, source: Path) -> None:
    """As little of a project as the stages need."""
    shutil.copytree(ROOT / "aigc_tasks", folder / "aigc_tasks")
    shutil.copy(ROOT / "dvc.yaml", folder)
    entry = {"acquire": {"kind": "folder", "source": str(source)}, "clean": {"size": SIZE}, "features": {}}
    YAML().dump({"datasets": {"pics": entry}, "recipes": {}}, folder / "params.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=100_000)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rows = []
    for count in (arguments.few, arguments.many):
        with tempfile.TemporaryDirectory() as scratch:
            source, here = Path(scratch, "source"), Path(scratch, "project")
            with Pool(cores) as pool:
                pool.map(partial(draw, source), range(count), chunksize=256)
            project(here, source)
            with chdir(here):
                acquired, cleaned = stage("aigc_tasks.acquire", "pics"), stage("aigc_tasks.clean", "pics")
            rows.append((count, acquired, cleaned, plain(source, cores)))
            print(f"{count} files drawn, acquired, cleaned", file=sys.stderr, flush=True)
    print(
        "| files | acquire, s | clean, s | plain, s | clean / plain | acquire, MiB | clean, MiB | all processes, MiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for count, (brought, raw_peak, _), (seconds, own, together), bare in rows:
        print(
            f"| {count:,} | {brought:.1f} | {seconds:.1f} | {bare:.1f} | {seconds / bare:.2f} "
            f"| {raw_peak:.0f} | {own:.0f} | {together:.0f} |"
        )
    (_, few_raw, few_clean, _), (_, many_raw, many_clean, _) = rows
    growth = [many_raw[1] / few_raw[1], many_clean[1] / few_clean[1], many_clean[2] / few_clean[2]]
    print(f"| × memory | | | | | {growth[0]:.2f} | {growth[1]:.2f} | {growth[2]:.2f} |")


if __name__ == "__main__":
    main()
