"""MNIST (LeCun et al. 1998): 60,000 + 10,000 grey 28×28 digits, in the four idx files as they were published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from aigc_tasks import acquire
from aigc_tasks.acquire import Entry, torchvision


class Source(acquire.Source):
    kind: Literal["mnist"]
    source: str | None = Field(None, description="folder or URL that holds the four files; without it, the mirrors")

    def entries(self, work: Path) -> Iterator[Entry]:
        return torchvision.entries("MNIST", self.source, "source", work)
