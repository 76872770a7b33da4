"""``aigc watch``: look at sources again and again, and tell Prefect when one has really changed, and has settled.

What was last told is kept in ``.aigc/watch/NAME.json``, and moves on when an event has reached the server: neither a
restart nor a server that is away loses a change or tells it twice.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

from aigc_tasks import layout, servers
from aigc_tasks import recipe as recipes
from aigc_tasks.acquire import Entry, places
from aigc_tasks.acquire.raw import content_hash
from aigc_tasks.errors import UserError
from aigc_tasks.recipe import Dataset, as_dict

CHANGED = "aigc.data.changed"
FIXED = ("digits", "mnist", "torchvision")  # kinds of source that are published once and for all
COUNTS = ("added", "changed", "removed")
Say = Callable[[str], None]
Listing = dict[str, tuple[str | None, str]]  # id: its stamp, and a hash of all that makes it what it is


def resource(dataset: str) -> str:
    """The name under which events speak of a data set."""
    return f"aigc.dataset.{dataset}"


def watch(names: list[str], every: float, settle: float, say: Say) -> None:
    """Until Ctrl-C or SIGTERM; raises ``UserError`` if there is no server to tell, or nothing to watch."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    watched = [Watched(dataset) for dataset in chosen(names, say)]
    api()
    for one in watched:
        say(f"{one.dataset.name}: watching its source every {every:g} s")
    while True:
        for one in watched:
            one.look(settle, say)
        time.sleep(every)


def chosen(names: list[str], say: Say) -> list[Dataset]:
    """The data sets that are named, or those of all recipes in use, without those that cannot change."""
    found = []
    for dataset in map(recipes.dataset, names) if names else in_use(say):
        if dataset.acquire.kind in FIXED:
            say(f"{dataset.name}: not watched, {dataset.acquire.kind} does not change")
        else:
            found.append(dataset)
    if not found:
        raise UserError("nothing to watch: no data set in use has a source that can change; add one: aigc add-data")
    return found


def in_use(say: Say) -> list[Dataset]:
    """The data sets of all recipes that are in order, by name."""
    own: dict[str, Dataset] = {}
    for settings in recipes.usable():
        if isinstance(settings, UserError):
            say(f"not watched: {settings}")
        else:
            own[settings.dataset.name] = settings.dataset
    return [own[name] for name in sorted(own)]


def api() -> str:
    """The address of Prefect's server; raises ``UserError`` if there is none."""
    url = servers.known_prefect()
    if url is None:
        raise UserError("there is no Prefect server to tell; start one: aigc serve")
    return url


@dataclass
class Watched:
    """A data set's source: what was told of it, and what is seen."""

    dataset: Dataset
    seen: Listing | None = None
    since: float = 0.0  # when it was first seen as it is
    trouble: str = ""
    told: Listing | None = field(init=False)
    next: UUID = field(default_factory=uuid4)  # of the next event: the same until that has been told, then another

    def __post_init__(self) -> None:
        self.told = self.remembered()

    @property
    def path(self) -> Path:
        return layout.LOCAL / "watch" / f"{self.dataset.name}.json"

    @property
    def source(self) -> dict[str, Any]:
        return as_dict(self.dataset.acquire)

    def remembered(self) -> Listing | None:
        """What was told of this very source; None if nothing was."""
        try:
            kept = json.loads(self.path.read_text())
            if kept["source"] != self.source:
                return None
            self.next = UUID(kept["next"])
            return {id: tuple(facts) for id, facts in kept["told"].items()}
        except (OSError, ValueError, KeyError, AttributeError):
            return None

    def remember(self, listing: Listing) -> None:
        self.told = listing
        self.next = uuid4()
        layout.replace(self.path, json.dumps({"source": self.source, "told": listing, "next": str(self.next)}))

    def look(self, settle: float, say: Say) -> None:
        """One look; tells of a change that has settled."""
        away = f"{self.dataset.name}: cannot be looked at: "
        try:
            now = listed(self.dataset, self.seen or self.told or {})
        except (UserError, OSError) as error:
            self.complain(f"{away}{str(error).splitlines()[0]}", say)
            return
        if self.trouble.startswith(away):
            self.trouble = ""  # the next time is news again
        if self.told is None:
            say(f"{self.dataset.name}: {len(now):,} entries, remembered as they are")
            self.remember(now)
        if self.seen is None or hashes(now) != hashes(self.seen):
            self.since = time.monotonic()
        self.seen = now
        counts = changes(self.told or {}, now)
        if not any(counts.values()):
            if now != self.told:
                self.remember(now)  # touched alone: what is unchanged need not be read again
        elif time.monotonic() - self.since >= settle:
            self.tell(counts, now, say)

    def tell(self, counts: dict[str, int], now: Listing, say: Say) -> None:
        summary = in_words(self.dataset.name, counts)
        same = uuid5(self.next, json.dumps([self.dataset.name, sorted(hashes(now).items())]))
        try:
            send(event(self.dataset.name, counts, summary, same))
        except (UserError, OSError) as error:
            self.complain(f"{summary}; not told yet: {error}", say)
            return
        self.trouble = ""
        self.remember(now)
        say(f"{summary}; told Prefect")

    def complain(self, trouble: str, say: Say) -> None:
        """Once for each trouble."""
        if trouble != self.trouble:
            say(trouble)
        self.trouble = trouble


def listed(dataset: Dataset, before: Listing) -> Listing:
    """Everything the source offers; only what has another stamp than ``before`` is read, and nothing that is remote."""
    kind, source = dataset.acquire.kind, str(getattr(dataset.acquire, "source", ""))
    near = kind != "urls" and not places.is_url(source)
    found: Listing = {}
    for entry in dataset.acquire.entries(layout.LOCAL / "watch" / f"{dataset.name}.work"):
        known = before.get(entry.id)
        same = known is not None and entry.stamp is not None and known[0] == entry.stamp
        if known is not None and (same or (entry.stamp is None and not near)):  # a host that says nothing, or is away
            found[entry.id] = known
        else:
            found[entry.id] = (entry.stamp, fact(entry, near))
    return found


def fact(entry: Entry, near: bool) -> str:
    """A hash of what makes the entry what it is: label, split, flaw, and its content, or a remote file's stamp."""
    content = entry.stamp
    if near and entry.read is not None:
        try:
            content = content_hash(entry.read())
        except (OSError, ValueError):
            content = entry.stamp  # it cannot be read, or is still being written
    told = json.dumps([entry.label, entry.split, entry.flaw, content])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def hashes(listing: Listing) -> dict[str, str]:
    return {id: fact for id, (_, fact) in listing.items()}


def changes(before: Listing, now: Listing) -> dict[str, int]:
    both = before.keys() & now.keys()
    changed = sum(before[id][1] != now[id][1] for id in both)
    return dict(zip(COUNTS, (len(now.keys() - both), changed, len(before.keys() - both)), strict=True))


def in_words(dataset: str, counts: dict[str, int]) -> str:
    """``digits: 12 added, 1 removed``"""
    return f"{dataset}: " + ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def event(dataset: str, counts: dict[str, int], summary: str, id: UUID) -> dict[str, Any]:
    """The event; the same change has the same ``id``, also if it is told again after a kill."""
    return {
        "id": str(id),
        "event": CHANGED,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": resource(dataset), "prefect.resource.name": dataset},
        "payload": {"dataset": dataset, **counts, "summary": summary},
    }


def send(event: dict[str, Any]) -> None:
    """Give the event to the server and hear that it has it; raises ``UserError`` if not."""
    import httpx
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        with temporary_settings({PREFECT_API_URL: api()}), get_client(sync_client=True) as client:
            client._client.post("/events", json=[event]).raise_for_status()  # as Prefect's own client of events does
    except httpx.HTTPError as error:
        if isinstance(error, httpx.HTTPStatusError):
            servers.refuse_dead(api())
        raise UserError(f"Prefect's server: {type(error).__name__}; start it: aigc serve") from None
