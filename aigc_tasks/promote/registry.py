"""A product in MLflow's model registry: its versions, its ledger, and the aliases that follow from the ledger.

MLflow keeps no history of aliases, and moves one at a time. So the ledger decides: every event is one tag of the
registered model, which is never changed, and written whole or not at all. ``champion``, ``challenger`` and ``previous``
are what the events add up to; whoever comes next sets the aliases right if somebody was killed in between.

An event names the champion that it was decided against. Of two decisions against the same one the first counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from filelock import AcquireReturnProxy, FileLock, Timeout

from aigc_tasks import tracking
from aigc_tasks.errors import UserError
from aigc_tasks.knobs import suggestion

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

LEDGER = "aigc.ledger."
ALIASES = ("champion", "challenger", "previous")
LONGEST = 1000  # characters of a reason; a tag of a registered model holds 5,000 where the database is strict
PAGE = 20  # versions that one request brings
MISSING = "RESOURCE_DOES_NOT_EXIST"  # MLflow's word
Kind = Literal["challenge", "promote", "refuse", "rollback", "delete"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a version of a recipe.

    ``champion`` is the version that it was decided against, None for none.
    """

    number: int
    kind: Kind
    version: int
    champion: int | None
    reason: str
    time: str
    recipe: str = ""

    @property
    def decides(self) -> bool:
        """Whether it moves the champion."""
        return self.kind in ("promote", "rollback")


@dataclass(frozen=True)
class Standing:
    """What the ledger adds up to.

    ``reigns`` are those that were champion one after the other and were not rolled back; ``previous`` the one that the
    champion took its place from, ``challenger`` the last that asked to be champion and is not.
    """

    reigns: tuple[int, ...] = ()
    challenger: int | None = None
    previous: int | None = None
    rolled_back: frozenset[int] = frozenset()

    @property
    def champion(self) -> int | None:
        return self.reigns[-1] if self.reigns else None

    @property
    def refuge(self) -> int | None:
        """To which a rollback leads: ``previous``, or past it if it was rolled back itself."""
        return self.reigns[-2] if len(self.reigns) > 1 else None

    @property
    def concerned(self) -> list[int]:
        """Versions that an alias names or a rollback leads to."""
        named = {self.champion, self.refuge, self.challenger, self.previous}
        return sorted(version for version in named if version is not None)

    def counts(self, event: Event) -> bool:
        """False for a decision that another one overtook."""
        return not event.decides or event.champion == self.champion

    def after(self, event: Event) -> Standing:
        if not self.counts(event):
            return self
        if event.kind == "delete":
            challenger = None if self.challenger == event.version else self.challenger
            without = replace(self, reigns=self.without(event.version), challenger=challenger)
            orphan = self.previous in (event.version, without.champion)
            return replace(without, previous=without.refuge) if orphan else without
        if event.kind == "promote":
            left = None if self.challenger == event.version else self.challenger
            return replace(self, reigns=(*self.reigns, event.version), challenger=left, previous=self.champion)
        if event.kind == "rollback":
            gone = self.rolled_back | {event.version}
            return replace(self, reigns=self.without(event.version), previous=event.version, rolled_back=gone)
        return replace(self, challenger=event.version)

    def without(self, gone: int) -> tuple[int, ...]:
        """The reigns but those of a version, which may have had several; it may have parted one of another's in two."""
        return tuple(version for version, _ in groupby(version for version in self.reigns if version != gone))


def added_up(events: list[Event]) -> Standing:
    standing = Standing()
    for event in events:
        standing = standing.after(event)
    return standing


def crowned(events: list[Event]) -> Event | None:
    """The event by which the champion came to its place: a promotion, or the end of what was there before it."""
    standing, found = Standing(), None
    for event in events:
        before, standing = standing, standing.after(event)
        if standing.champion != before.champion:
            found = event
    return found


class Product:
    """One registered model. Every method looks at the store anew."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self.client, self.name = client, name

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One command at a time; the registered model is there, its aliases are right again.

        Raises ``UserError`` for a registered model that somebody else has made. In one of ours versions of others are
        left alone: the ledger knows none of them.
        """
        with self.turn():
            found = self.found() or self.client.create_registered_model(self.name)
            foreign = (one.version for one in self.newest() if tracking.IDENTITY not in one.tags)
            if not events_in(found.tags) and (one := next(foreign, None)) is not None:
                raise UserError(
                    f"the registered model {self.name!r} has versions that `aigc promote` did not make "
                    f"({one}); give the product another name"
                )
            self.settle()
            yield

    def turn(self) -> AcquireReturnProxy[Any]:
        """The lock of whoever changes this product, had at once or waited for with a word."""
        lock = self.lock()
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for the command that is changing {self.name}", flush=True)
            return lock.acquire()

    def lock(self) -> FileLock:
        return tracking.lock(f"product-{self.name}")

    def mend(self) -> None:
        """Set right what a killed command left, unless one is at work, which has done so."""
        with suppress(Timeout), self.lock().acquire(timeout=0):
            self.settle()

    def ledger(self) -> list[Event]:
        """All events, in order; raises ``UserError`` if there is no such product."""
        return events_in(self.model().tags)

    def found(self) -> Any:
        """The registered model, None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != MISSING:
                raise
            return None

    def model(self) -> Any:
        found = self.found()
        if found is None:
            known = list(ledgers())
            mend = suggestion(self.name, known) if known else "none is registered yet; first: aigc promote RECIPE"
            raise UserError(f"there is no product {self.name!r}; {mend}")
        return found

    def standing(self) -> Standing:
        return added_up(self.ledger())

    def live(self) -> Standing:
        """The standing without versions that somebody has deleted, also if the ledger is yet to be told of it."""
        standing = self.standing()
        while gone := self.gone(standing):
            for version in gone:
                standing = standing.after(Event(0, "delete", version, standing.champion, "", ""))
        return standing

    def gone(self, standing: Standing) -> list[int]:
        return [version for version in standing.concerned if not self.has(version)]

    def record(self, kind: Kind, version: int, champion: int | None, reason: str, recipe: str = "") -> bool:
        """Add an event, the one step that decides, then set the aliases. False if another decision came first.

        The ``recipe`` may be left out where the version has had an event before.
        """
        event = self.append(kind, version, champion, reason, recipe)
        standing = Standing()
        for other in self.ledger():
            if other == event:
                break
            standing = standing.after(other)
        self.settle()
        return standing.counts(event)

    def append(self, kind: Kind, version: int, champion: int | None, reason: str, recipe: str = "") -> Event:
        before = self.ledger()
        number = max((event.number for event in before), default=0) + 1  # some may have been deleted
        now = datetime.now(UTC).isoformat(timespec="seconds")
        maker = recipe or next((event.recipe for event in before if event.version == version), "")
        event = Event(number, kind, version, champion, reason[:LONGEST], now, maker)
        key = f"{LEDGER}{number:06d}.{time.time_ns():x}"  # one number may be given twice, from two machines
        self.client.set_registered_model_tag(self.name, key, json.dumps(asdict(event), ensure_ascii=False))
        return event

    def settle(self) -> None:
        """Set the aliases to what the ledger says, to which it adds the versions that somebody has deleted."""
        model = self.model()
        standing = added_up(events_in(model.tags))
        if standing == Standing():
            return
        while gone := self.gone(standing):
            for version in gone:
                self.append("delete", version, standing.champion, "it was deleted from the registry")
            model = self.model()
            standing = added_up(events_in(model.tags))
        now = {name: int(version) for name, version in model.aliases.items()}
        for alias in ALIASES:
            wanted = getattr(standing, alias)
            if wanted is None and alias in now:
                self.client.delete_registered_model_alias(self.name, alias)
            elif wanted is not None and now.get(alias) != wanted:
                self.client.set_registered_model_alias(self.name, alias, str(wanted))

    def version(self, which: str) -> ModelVersion:
        """By number or alias, which may be wrong in MLflow: the ledger decides, if it has one; raises ``UserError``."""
        from mlflow.exceptions import MlflowException

        try:
            if which in ALIASES and self.ledger():
                if (number := getattr(self.live(), which)) is None:
                    raise self.lacking(which)
                which = str(number)
            if which.isdecimal():
                return self.client.get_model_version(self.name, which)
            return self.client.get_model_version_by_alias(self.name, which)
        except MlflowException as error:
            if error.error_code not in (MISSING, "INVALID_PARAMETER_VALUE"):
                raise
            raise self.lacking(which) from None

    def lacking(self, which: str) -> UserError:
        """That there is no such version, and which there are; raises ``UserError`` if there is no such product."""
        standing = self.live()
        number = next((int(one.version) for one in self.newest()), 0)
        if not number:
            return UserError(f"{self.name} has no version yet; first: aigc promote RECIPE")
        aliases = ", ".join(sorted(alias for alias in ALIASES if getattr(standing, alias) is not None))
        return UserError(f"{self.name} has no version {which!r}; it has {aliases or 'no alias yet'}, and 1 to {number}")

    def has(self, number: int) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_model_version(self.name, str(number))
        except MlflowException as error:
            if error.error_code != MISSING:
                raise
            return False
        return True

    def newest(self) -> Iterator[ModelVersion]:
        """The versions, newest first, however many there are."""
        token = None
        while True:
            page = self.client.search_model_versions(
                f"name='{self.name}'", max_results=PAGE, order_by=["version_number DESC"], page_token=token
            )
            yield from page
            if not (token := page.token):
                return

    def tagged(self, tags: dict[str, str]) -> ModelVersion | None:
        """The newest version that has these tags."""
        wanted = [f"name='{self.name}'", *(f"tags.`{key}`='{value}'" for key, value in tags.items())]
        order = ["version_number DESC"]
        found = self.client.search_model_versions(" and ".join(wanted), max_results=1, order_by=order)
        return found[0] if found else None


def events_in(tags: dict[str, str]) -> list[Event]:
    """The ledger that a registered model's tags are."""
    return [Event(**json.loads(tags[key])) for key in sorted(key for key in tags if key.startswith(LEDGER))]


def ledgers() -> dict[str, list[Event]]:
    """Every product's ledger by its name: the registered models that have one."""
    tags = tracking.registered_tags(LEDGER)
    return {name: events for name in sorted(tags) if (events := events_in(tags[name]))}


def named(address: str) -> tuple[str, str]:
    """``digits@champion``, ``digits@3`` or ``digits``, which means the champion, as product and version."""
    product, _, which = address.partition("@")
    return product, which or "champion"


def find(address: str) -> tuple[Product, ModelVersion]:
    """The version that ``address`` names; raises ``UserError``."""
    name, which = named(address)
    if not name:
        raise UserError(f"{address!r} names no product; write for example digits@champion")
    product = Product(tracking.open_client(), name)
    version = product.version(which)
    number = int(version.version)
    if tracking.IDENTITY not in version.tags and number not in {event.version for event in product.ledger()}:
        raise UserError(f"{name} version {version.version} was not made by `aigc promote`; it cannot be used here")
    return product, version
