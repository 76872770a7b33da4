"""What the gate says of a version."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Criterion:
    """One line of the decision; ``reason`` is for a person, where it does not hold."""

    name: str
    wanted: str
    found: str
    holds: bool
    reason: str = ""


@dataclass(frozen=True)
class Decision:
    """What was asked, about which version, against which champion (None for none)."""

    version: int
    champion: int | None
    criteria: list[Criterion]

    @staticmethod
    def recalled(content: str) -> Decision:
        """From its JSON."""
        found = json.loads(content)
        return Decision(found["version"], found["champion"], [Criterion(**one) for one in found["criteria"]])

    @property
    def passed(self) -> bool:
        return all(criterion.holds for criterion in self.criteria)

    @property
    def reason(self) -> str:
        """A sentence or some."""
        if self.passed:
            return "it meets every criterion" if self.champion is None else "it is better, and meets every criterion"
        return "; ".join(criterion.reason for criterion in self.criteria if not criterion.holds)

    def table(self) -> str:
        """Markdown."""
        rows = ["| criterion | wanted | found | |", "|---|---|---|---|"]
        rows += [f"| {c.name} | {c.wanted} | {c.found} | {'holds' if c.holds else '**no**'} |" for c in self.criteria]
        return "\n".join(rows)

    def content(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "reason": self.reason}
