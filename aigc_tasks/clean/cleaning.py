"""Check every entry, drop what must not be learned from, divide the rest into splits, and account for all of it.

Two passes: every entry is looked at once, in parallel (``looking``); then the table of what was found, which is small,
is judged as a whole, and the pixels of what is kept are copied chunk by chunk to their places. Memory holds the table
and a few chunks, however many samples there are. Results depend on the entries alone, not on how they came in.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aigc_tasks import layout
from aigc_tasks.acquire import raw
from aigc_tasks.clean import Knobs, looking
from aigc_tasks.recipe import dataset


def clean(name: str) -> None:
    """The stage: ``data/raw/NAME`` to ``data/clean/NAME`` and ``reports/data/NAME.html``."""
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what it was given for good
    knobs = dataset(name).clean
    Thread(target=import_ahead).start()
    found, paths = table(layout.raw(name), knobs, layout.LOCAL / "clean" / name, f"clean {name}")
    from aigc_tasks.clean import judging

    judging.judge(name, knobs, found, paths)


def import_ahead() -> None:
    """Pandas and pandera take most of a second, which pass while pictures are looked at."""
    with suppress(Exception):  # the import that waits for this one says it
        import_module("aigc_tasks.clean.judging")


def table(folder: Path, knobs: Knobs, work: Path, label: str) -> tuple[pa.Table, list[Path]]:
    """What was found in every entry that no later version replaces, in the order of the ids; and where the pixels are.

    The column ``chunk`` is the number of the path that a row's pixels belong to.
    """
    replaced = raw.superseded(folder)
    paths: list[Path] = []
    tables: list[pa.Table] = []
    for chunk, path, found in looking.seen(folder, knobs, work, label):
        if old := replaced.get(chunk.file):
            found = found.filter(pc.invert(pc.is_in(found["id"], pa.array(old, pa.large_string()))))
        tables.append(found.append_column("chunk", pa.array(np.full(len(found), len(paths), np.uint32))))
        paths.append(path)
    whole = pa.concat_tables(tables).combine_chunks()  # thousands of small arrays lie too scattered to be freed
    tables.clear()
    ids = whole["id"]
    if not pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py():
        whole = whole.sort_by("id")
    return whole, paths
