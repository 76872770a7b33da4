"""What a source lists, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aigc_tasks import acquire
from aigc_tasks.acquire import Entry, Source
from aigc_tasks.errors import UserError


def listed(tmp_path: Path, kind: str, **knobs: Any) -> list[Entry]:
    """What a source lists."""
    return list(acquire.source(kind)(kind=kind, **knobs).entries(tmp_path / "work"))


def found(source: Source, work: Path) -> dict[str, Entry]:
    entries = {entry.id: entry for entry in source.entries(work)}
    assert entries
    return entries


def contents(entries: list[Entry]) -> list[Any]:
    return [entry.read() for entry in entries if entry.read]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "params.yaml" in text or "pip install" in text
    return text
