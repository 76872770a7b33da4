"""Ways to save samples beside the arrays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aigc_tasks.modalities import image
from aigc_tasks.progress import progress

OPTIONS: dict[str, dict[str, Any]] = {"png": {}, "webp": {"lossless": True}}
DURATION = 80  # milliseconds a frame
WIDEST = 65_535  # pixels of a GIF
LONGEST = 200  # bytes of a class in the name of a file, which may have 255


def one_each(folder: Path, kind: str, images: np.ndarray, labels: np.ndarray, classes: list[str]) -> None:
    """One file a sample in the folder KIND; images uint8 N×C×H×W, labels N."""
    (folder / kind).mkdir()
    with progress(f"save {kind}", len(images)) as update:
        for number, (sample, label) in enumerate(zip(images, labels, strict=True)):
            one(folder / kind, kind, number, sample, classes[label] if classes else None)
            update(number + 1, "")


def one(folder: Path, kind: str, number: int, sample: np.ndarray, label: str | None) -> None:
    """NUMBER_CLASS.KIND, its pixels kept bit for bit; a long class is cut off."""
    word = "" if label is None else "_" + re.sub(r"[^\w.-]+", "-", label)  # a class may be called T-shirt/top
    word = word.encode()[:LONGEST].decode(errors="ignore")  # or by a sentence, as a CSV of labels may have them
    image.picture(sample).save(folder / f"{number:05d}{word}.{kind}", **OPTIONS[kind])


def strips(frames: np.ndarray) -> Image.Image:
    """uint8 R×F×C×H×W as R rows of F pictures."""
    return image.grid(frames.reshape(-1, *frames.shape[2:]), columns=frames.shape[1])


def animation(path: Path, frames: np.ndarray) -> None:
    """uint8 R×F×C×H×W as an endless GIF, the rows side by side, there and back in 2F - 2 frames.

    Rows that a GIF is not wide enough for come below.
    """
    columns = min(len(frames), (WIDEST - 1) // (frames.shape[-1] + 1))
    there = [image.grid(moment, columns) for moment in frames.swapaxes(0, 1)]
    first, *others = there + there[-2:0:-1]
    first.save(path, save_all=True, append_images=others, duration=DURATION, loop=0)
