"""How far the work is: a bar on a terminal, sparse lines in a log, both in a flow that a terminal watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MARK = "\x1e"  # begins a line meant for the bar of the process that reads our output
PIPED = "AIGC_PROGRESS"  # set by a parent that draws the bar for us
SPARSE = 10.0  # seconds between two lines in a log
SMOOTH = 0.2  # seconds between two moves of the bar


@contextmanager
def progress(label: str, total: int, start: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Yields ``update(done, note)``, cheap enough to call at every step."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, initial=start, desc=label, leave=False, dynamic_ncols=True) as bar:

            def move(done: int, note: str) -> None:
                if note != bar.postfix:
                    bar.set_postfix_str(note, refresh=False)
                bar.update(done - bar.n)

            yield move
        return

    piped = PIPED in os.environ
    began = spoke = moved = time.monotonic()

    def tell(done: int, note: str) -> None:
        nonlocal spoke, moved
        now = time.monotonic()
        if piped and (now - moved >= SMOOTH or done == total):
            moved = now
            print(f"{MARK}{done} {total} {label}  {note}", flush=True)
        if now - spoke >= SPARSE or done == total:
            spoke = now
            rate = (done - start) / max(now - began, 1e-9)
            of = f"/{total}" if total else ""  # who cannot know says 0
            left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
            print(f"{label}  {done}{of}  {note}  {rate:.3g}/s{left}", flush=True)

    yield tell


def say(line: str) -> None:
    """A line among those of the work, above the bar if there is one."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(line)
    else:
        print(line, flush=True)


def read_mark(line: str) -> tuple[int, int, str] | None:
    """``(done, total, text)`` of a line meant for the bar, None for any other line."""
    if not line.startswith(MARK):
        return None
    done, total, text = line[len(MARK) :].split(" ", 2)
    return int(done), int(total), text.rstrip()
