"""Where the tensors live, and what makes the same seed give the same bytes there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from aigc_tasks.errors import UserError
from aigc_tasks.knobs import Compute

TOO_LARGE = ("can't allocate memory", "Storage size calculation overflowed", "Overflow when unpacking long")


def prepare(knobs: Compute) -> torch.device:
    """Choose the device and make torch deterministic on it; raises ``UserError`` where cuda is asked for in vain."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports torch's compiler first: seconds
    # Each new tensor would be filled, a twentieth of a step; nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return place(knobs)


def place(knobs: Compute) -> torch.device:
    """The device, and the number of threads set; raises ``UserError`` as ``prepare`` does."""
    if knobs.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda: no GPU is visible to torch; set `device: auto` or `device: cpu` in params.yaml")
    torch.set_num_threads(knobs.threads)
    return torch.device("cuda" if knobs.device != "cpu" and torch.cuda.is_available() else "cpu")


def seeded(*key: int) -> int:
    """A seed for torch from any number of whole numbers.

    Every step seeds torch from (seed, step): randomness has no state beside the step number, so that a resumed run
    draws what an undisturbed one would have drawn, whatever in the step draws it.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def reseed(device: torch.device, seed: int) -> None:
    """``torch.manual_seed`` of the CPU and ``device`` alone: that of every backend there is takes 60 times as long."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def lacks_compiler(error: Exception) -> bool:
    """Whether torch.compile found no C++ compiler; by the error's name, for to import it takes seconds."""
    return type(getattr(error, "inner_exception", error)).__name__ == "InvalidCxxCompiler"


@contextmanager
def within_memory(otherwise: str) -> Iterator[None]:
    """Raises ``UserError``, ``otherwise``, where torch wants more memory than there is: it has many words for that."""
    try:
        yield
    except (RuntimeError, TypeError, MemoryError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in TOO_LARGE):
            raise
        raise UserError(otherwise) from None
