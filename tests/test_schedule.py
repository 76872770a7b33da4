"""The section ``schedule:`` is checked at the door."""

from __future__ import annotations

from typing import Any

import pytest

from aigc_tasks.errors import UserError
from aigc_tasks.knobs import validated
from aigc_tasks.schedule import Schedule


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"cron": "every day"}, "x.cron: 'every day' is no cron expression; write `0 3 * * *`"),
        ({"timezone": "Mars/Olympus"}, "x.timezone: there is no time zone 'Mars/Olympus'; write one as Europe/Berlin"),
        ({"timezone": "localtime"}, "x.timezone: there is no time zone 'localtime'; write one as Europe/Berlin"),
        ({"timezone": "posix/Europe/Berlin"}, "x.timezone: there is no time zone 'posix/Europe/Berlin'; write one as"),
        ({"cron": "0 0 30 2 *"}, "x.cron: '0 0 30 2 *' never comes; name a day that its month has"),
        ({"cron": "0 3 * * *", "interval": 5}, "x: `cron` and `interval` are both given; keep one"),
        ({"overlap": "drop"}, "x.overlap: must be 'skip' or 'queue', got 'drop'"),
        ({"crom": "0 3 * * *"}, "x.crom: unknown key; did you mean 'cron'?"),
        ({"retries": -1}, "x.retries: must be greater than or equal to 0, got -1"),
        ({"retries": 10**30}, "x.retries: must be less than or equal to 100, got 10000"),
        ({"interval": 1e400}, "x.interval: must be a finite number, got inf"),
        ({"interval": 1e15}, "x.interval: must be less than or equal to 31536000, got 1000000000000000.0"),
        ({"interval": 1e-9}, "x.interval: must be greater than or equal to 1, got 1e-09"),
        ({"time_limit": 1e400}, "x.time_limit: must be a finite number, got inf"),
        ({"retry_delay": float("nan")}, "x.retry_delay: must be a finite number, got nan"),
        ({"retry_delay": 1e15}, "x.retry_delay: must be less than or equal to 31536000, got 1000000000000000.0"),
    ],
)
def test_what_is_wrong_is_named_with_its_mend(section: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        validated(Schedule, section, "x")
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, "when its data has changed"),
        ({"cron": "0 3 * * *"}, "0 3 * * * (UTC), when its data has changed"),
        ({"cron": "0 0 29 2 *"}, "0 0 29 2 * (UTC), when its data has changed"),
        ({"interval": 90, "on_change": False}, "every 90 s"),
        ({"interval": 2_592_060, "on_change": False}, "every 2592060 s"),
        ({"on_change": False}, "by hand"),
    ],
)
def test_it_is_told_in_words(section: dict[str, Any], words: str) -> None:
    assert validated(Schedule, section, "x").in_words() == words
