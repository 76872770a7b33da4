"""What a source lists, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_tasks.acquire import Entry, Source
from aigc_tasks.errors import UserError


def found(source: Source, work: Path) -> dict[str, Entry]:
    entries = {entry.id: entry for entry in source.entries(work)}
    assert entries
    return entries


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "params.yaml" in text or "pip install" in text
    return text
