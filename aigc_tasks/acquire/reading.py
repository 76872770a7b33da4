"""Read what may have changed, several entries at a time, and hand everything on in the order of the listing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from aigc_tasks.acquire import Entry, archives, raw
from aigc_tasks.acquire.known import Last, Read
from aigc_tasks.errors import UserError

THREADS = 16  # reads at a time: many sources are far away
AHEAD, AHEAD_BYTES = 64, 64 << 20  # entries and bytes read before it is their turn to be written
UNKNOWN = AHEAD_BYTES // THREADS  # bytes that an entry of unknown size is expected to have


def contents(entries: Iterator[Entry], last: Last) -> Iterator[tuple[Entry, Read]]:
    """Each entry in order with what it is; those that may have changed are read ahead, several at a time."""
    waiting: deque[tuple[Entry, Read | Future[Read]]] = deque()
    lock, held = Lock(), 0  # bytes that were read and not yet taken, and are expected of what is being read

    def fetch(entry: Entry, expected: int) -> Read:
        nonlocal held
        read = fetched(entry)
        with lock:
            held += raw.size_of(read.content) - expected
        return read

    def take() -> tuple[Entry, Read]:
        nonlocal held
        entry, read = waiting.popleft()
        if isinstance(read, Future):
            read = read.result()
        with lock:
            held -= raw.size_of(read.content)
        return entry, read

    pool = ThreadPoolExecutor(THREADS)
    try:
        for entry in entries:
            known = last.unchanged(entry) if entry.flaw is None else Read("", entry.flaw, None, False)
            expected = 0 if known else UNKNOWN if entry.size is None else entry.size
            while len(waiting) >= AHEAD or (waiting and held + expected > AHEAD_BYTES):
                yield take()
            with lock:
                held += expected
            waiting.append((entry._replace(read=None), known or pool.submit(fetch, entry, expected)))
        while waiting:
            yield take()
    finally:
        pool.shutdown(cancel_futures=True)


def fetched(entry: Entry) -> Read:
    assert entry.read is not None
    try:
        content = entry.read()
    except UserError:
        raise
    except Exception as error:  # a damaged archive raises anything
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        return Read("", f"unreadable ({archives.spelled(reason.splitlines()[0][:200])})", None, True)
    return Read(raw.content_hash(content), None, content, True)
