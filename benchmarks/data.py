"""What cleaning costs: memory against the number of files, and time against decoding and resizing alone.

``python -m benchmarks.data [--few N] [--many N] [--side PIXELS]`` draws JPEG files into a temporary project, acquires
and cleans them by the stages' own commands, and samples the memory of every process that takes part. ``plain`` decodes
and resizes the same files with Pillow in as many processes and does nothing else. All in one run, where the two take
turns: each ratio is one of neighbours in time, and what is printed are medians, of memory the largest. The last line is
what one file more costs, which is the cost without starting and ending.
"""

from __future__ import annotations

import argparse
import io
import os
import re
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
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image, ImageOps
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64  # pixels of a side, of what a file becomes
FOLDER = 1_000  # files in one
LOOK = 0.05  # seconds between two looks at the memory


class Row(NamedTuple):
    """Of the table: seconds, and peaks of memory in MiB."""

    count: int
    acquire: float
    acquire_peak: float
    clean: float
    plain: float
    ratio: float
    clean_peak: float
    all_peak: float


def draw(folder: Path, side: int, number: int) -> None:
    """A smooth colour picture that no other number gives, as a camera's JPEG of ``side`` pixels by three quarters."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    picture = small.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).effect_spread(2)
    path = folder / f"{number // FOLDER:03d}" / f"{number:06d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=85)


def fitted(path: Path) -> bytes:
    """Decode and resize, as plainly as can be."""
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        return np.asarray(ImageOps.fit(picture.convert("RGB"), (SIZE, SIZE), Image.Resampling.LANCZOS)).tobytes()


def plain(folder: Path, cores: int) -> float:
    """Seconds to decode, resize and write all files."""
    folder.with_name("plain.bin").unlink(missing_ok=True)
    os.sync()  # what was written before is not waited for in here; so in `stage`
    files, began = sorted(folder.rglob("*.jpg")), time.perf_counter()
    with Pool(cores) as pool, open(folder.with_name("plain.bin"), "wb") as target:
        for pixels in pool.imap(fitted, files, chunksize=64):
            target.write(pixels)
    return time.perf_counter() - began


def stage(*command: str) -> tuple[float, float, float]:
    """Seconds and the peaks of memory in MiB, of the stage's own process and of all that it starts together."""
    os.sync()
    child = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
    peaks, ended, began = [0.0, 0.0], threading.Event(), time.perf_counter()

    def look() -> None:
        while not ended.wait(LOOK):
            peaks[0], peaks[1] = max(peaks[0], most_of(child.pid)), max(peaks[1], sum(sizes_of(child.pid)))

    watcher = threading.Thread(target=look)
    watcher.start()
    code = child.wait()
    seconds = time.perf_counter() - began
    ended.set()
    watcher.join()
    if code:
        sys.exit(f"{command} ended with {code}")
    return seconds, peaks[0] / 2**20, peaks[1] / 2**20


def most_of(pid: int) -> int:
    """The most resident bytes that a process ever had, by the kernel's own count: a short peak counts too."""
    try:
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) << 10
    except (OSError, IndexError):  # it has ended
        return 0


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


def cleaned() -> tuple[float, float, float]:
    """``stage`` of a cleaning that finds nothing of an earlier one."""
    for folder in (".aigc/clean", "data/clean"):
        shutil.rmtree(folder, ignore_errors=True)
    return stage("aigc_tasks.clean", "pics")


def measured(count: int, side: int, turns: int) -> Row:
    """All that is measured with so many files."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        source, here = Path(scratch, "source"), Path(scratch, "project")
        with Pool(cores) as pool:
            pool.map(partial(draw, source, side), range(count), chunksize=256)
        project(here, source)
        with chdir(here):
            acquired = stage("aigc_tasks.acquire", "pics")
            print(f"{count} files drawn and acquired", file=sys.stderr, flush=True)
            pairs = [(cleaned(), plain(source, cores)) for _ in range(turns)]
    seconds, own, together = zip(*(clean for clean, _ in pairs), strict=True)
    ratio = median(clean[0] / bare for clean, bare in pairs)
    return Row(
        count, acquired[0], acquired[1], median(seconds), median(bare for _, bare in pairs), ratio,
        max(own), max(together),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=256, help="the longer one of a file, pixels")
    parser.add_argument("--turns", type=int, default=3, help="how often clean and plain take turns")
    arguments = parser.parse_args()
    few, many = (measured(count, arguments.side, arguments.turns) for count in (arguments.few, arguments.many))
    print(
        "| files | acquire, s | clean, s | plain, s | clean / plain | acquire, MiB | clean, MiB | all processes, MiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in (few, many):
        print(
            f"| {row.count:,} | {row.acquire:.1f} | {row.clean:.1f} | {row.plain:.1f} | {row.ratio:.2f} "
            f"| {row.acquire_peak:.0f} | {row.clean_peak:.0f} | {row.all_peak:.0f} |"
        )
    clean, bare = many.clean - few.clean, many.plain - few.plain
    each = 1000 / (many.count - few.count)
    grown = [getattr(many, peak) / getattr(few, peak) for peak in ("acquire_peak", "clean_peak", "all_peak")]
    print(
        f"| one more, ms; × memory | {(many.acquire - few.acquire) * each:.2f} | {clean * each:.2f} "
        f"| {bare * each:.2f} | {clean / bare:.2f} | {' | '.join(f'{factor:.2f}' for factor in grown)} |"
    )


if __name__ == "__main__":
    main()
