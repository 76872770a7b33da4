"""When a recipe is retrained by itself, and how: the section ``schedule:`` of a recipe, which ``aigc serve`` reads.

No stage reads it, so that nothing runs again because a schedule was changed.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from aigc_tasks import knobs

YEAR = 365 * 24 * 60 * 60  # seconds; what is longer no clock counts
WHOM = re.compile(r"[a-z0-9-]+/[a-z0-9-]+|\$[A-Za-z_][A-Za-z0-9_]*")


class Schedule(knobs.Knobs):
    """Without ``cron`` and ``interval`` it is retrained when its data has changed (``aigc watch``), and by hand."""

    cron: str | None = Field(None, description="five fields, or six of which the last is seconds: 0 3 * * *")
    interval: float | None = Field(
        None, ge=1, le=YEAR, description="in place of `cron`: seconds between two starts, counted from 2000-01-01 UTC"
    )
    timezone: str = Field("UTC", description="in which `cron` is read, for example Europe/Berlin")
    on_change: bool = Field(True, description="also when `aigc watch` has seen its data change")
    overlap: Literal["skip", "queue"] = Field("skip", description="what a start does that finds the last one at work")
    time_limit: float | None = Field(
        None, gt=0, le=YEAR / 60, description="minutes; a retraining that takes longer is ended"
    )
    retries: int = Field(0, ge=0, le=100, description="of one that failed for a reason which may pass")
    retry_delay: float = Field(
        60.0, gt=0, le=YEAR, description="seconds before the first retry; twice as many before each next"
    )
    push: bool = Field(False, description="share results: fetch and push the branch at `origin`, DVC's remote likewise")

    notify: list[str] = Field(
        default_factory=list,
        description="whom to tell what came out: a notification block of Prefect's server, slack-webhook/team say, or "
        "an environment variable, $TEAM_MAIL say, that holds an address of Apprise (mailto://…)",
    )

    @field_validator("notify")
    @classmethod
    def is_no_address(cls, notify: list[str]) -> list[str]:
        for whom in notify:
            if not WHOM.fullmatch(whom):
                raise ValueError(
                    "an entry is neither a block (type/name) nor a variable ($NAME); an address holds secrets: put it "
                    "into the environment, and the variable's name here"
                )
        return notify

    @field_validator("cron")
    @classmethod
    def is_cron(cls, cron: str | None) -> str | None:
        from prefect._vendor.croniter import CroniterBadDateError, croniter  # the one that its server asks
        from prefect.client.schemas.schedules import CronSchedule

        if cron is not None:
            try:
                CronSchedule(cron=cron)
            except ValueError:
                raise ValueError(f"{cron!r} is no cron expression; write `0 3 * * *` for three every night") from None
            try:
                croniter(cron).get_next()
            except CroniterBadDateError:
                raise ValueError(f"{cron!r} never comes; name a day that its month has") from None
        return cron

    @field_validator("timezone")
    @classmethod
    def is_timezone(cls, name: str) -> str:
        from pytz import all_timezones_set  # those that Prefect's server knows; this machine may have more

        if name not in all_timezones_set:
            raise ValueError(f"there is no time zone {name!r}; write one as Europe/Berlin or UTC")
        return name

    @model_validator(mode="after")
    def once(self) -> Schedule:
        if self.cron is not None and self.interval is not None:
            raise ValueError("`cron` and `interval` are both given; keep one")
        return self

    def in_words(self) -> str:
        """When it starts, in words."""
        return ", ".join(self.starts + (["when its data has changed"] if self.on_change else [])) or "by hand"

    @property
    def starts(self) -> list[str]:
        """The starts that a clock gives."""
        cron = [f"{self.cron} ({self.timezone})"] if self.cron else []
        return cron + ([f"every {self.interval:.12g} s"] if self.interval else [])


BY_HAND = Schedule.model_validate({"on_change": False})  # of a recipe that says nothing
