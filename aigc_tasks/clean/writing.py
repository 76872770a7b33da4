"""Copy the pixels of what is kept, chunk by chunk, to their places in the arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import IO

import numpy as np
import pandas as pd

from aigc_tasks.clean.arrays import SPLITS
from aigc_tasks.clean.parts import Parts
from aigc_tasks.modalities import image

THREADS = 2  # a system takes what is written faster from two than from one


def write(rows: pd.DataFrame, parts: Parts, folder: Path) -> None:
    """``train.npy``, ``val.npy`` and ``test.npy``: each sample of what is kept in the row that the table says."""
    kept = rows.index[rows["reason"].isna()].to_numpy()
    channels = int(rows.loc[kept, "channels"].max())
    _, first = next(parts.pixels(kept[:1]))
    starts, shape = {}, (channels, *first.shape[2:])
    for split in SPLITS:
        with open(folder / f"{split}.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (int((rows["split"] == split).sum()), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            starts[split] = file.tell()
    splits, places = rows["split"].to_numpy(object), rows["row"].to_numpy(np.int64, na_value=-1)

    ended = Event()

    def copy(own: np.ndarray) -> None:
        with ExitStack() as stack:
            files = {split: stack.enter_context(open(folder / f"{split}.npy", "rb+")) for split in SPLITS}
            for some, found in parts.pixels(own):
                if ended.is_set():
                    return
                # a grey one among colours was repeated: any of its channels is it
                found = image.coloured(found, 3) if channels == 3 else found[:, :1]
                for split, file in files.items():
                    put(file, starts[split], places[some], found, splits[some] == split)

    thread = parts.chunk[kept] % THREADS
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for copied in as_completed([threads.submit(copy, kept[thread == number]) for number in range(THREADS)]):
                copied.result()
        finally:  # by Ctrl-C, say, or a full disk: threads would go on to their end
            ended.set()


def put(file: IO[bytes], start: int, places: np.ndarray, pixels: np.ndarray, chosen: np.ndarray) -> None:
    """Write the chosen samples to their places in an array that begins at ``start``, as many at a time as follow."""
    own = np.flatnonzero(chosen)
    own = own[np.argsort(places[own])]
    for run in np.split(own, np.flatnonzero(np.diff(places[own]) != 1) + 1) if len(own) else []:
        file.seek(start + int(places[run[0]]) * pixels[0].nbytes)
        file.write(np.ascontiguousarray(pixels[run]).data)
