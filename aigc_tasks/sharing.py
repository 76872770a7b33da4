"""DVC's remote, with which retrainings share data and models; what it refuses is one line.

A remote may hang, and DVC waits: so pulling and pushing are done in a process that can be stopped.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from aigc_tasks import graph, lifeline, stage
from aigc_tasks.acquire import places, unreachable
from aigc_tasks.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

LOGS = ("dvc_data.index.fetch", "dvc_data.hashfile.transfer", "dvc_objects.fs.generic")
MENDS = {
    unreachable.KEYS: "set credentials in the environment",
    unreachable.NETWORK: "check the network, and its address: dvc remote list",
}


class Cause(logging.Filter):
    """Takes the errors out of DVC's log that are the reason for what it raises, and keeps the last."""

    error: Exception | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, Exception):
            return True
        self.error = error
        return False


@contextmanager
def shared() -> Iterator[Repo]:
    """DVC's view of this project, to push to its default remote and pull from it; raises ``UserError``.

    DVC raises how many files failed, and logs why, with a traceback for each.
    """
    from dvc.config import NoRemoteError
    from dvc.exceptions import CheckoutError, DvcException
    from dvc.lock import LockError
    from dvc_objects.fs.errors import RemoteMissingDepsError

    repo, cause = graph.open_repo(), Cause()
    logs = [logging.getLogger(name) for name in LOGS]
    for log in logs:
        log.addFilter(cause)
    try:
        repo.cloud.get_remote()
        yield repo
    except NoRemoteError:
        mend = "add one: dvc remote add --default NAME URL, or set push: false"
        raise UserError(f"params.yaml: schedule.push: DVC has no default remote to push to; {mend}") from None
    except (UserError, LockError, CheckoutError, AssertionError, AttributeError, TypeError):
        raise  # a matter of this project, or a fault of ours
    except Exception as error:  # every protocol's package has its own
        found = cause.error or error
        if isinstance(found, OSError) and (found.errno in unreachable.DISK or found.filename is not None):
            raise found from None  # of this machine's disk
        name = repo.config["core"]["remote"]
        url = repo.config["remote"].get(name, {}).get("url", "no address")
        remote = f"DVC's remote {name} ({places.shown(url)})"
        if cause.error is None and isinstance(error, DvcException | RemoteMissingDepsError):
            raise UserError(f"{remote}: {graph.one_line(error)}") from error
        why, mend, _ = unreachable.diagnosis(found)
        raise UserError(
            f"{remote}: {why}; {MENDS.get(mend, f'correct its address: dvc remote modify {name} url URL')}"
        ) from error
    finally:
        for log in logs:
            log.removeFilter(cause)


def transfer(way: Literal["pull", "push"], targets: list[str], pulse: Callable[[], None]) -> None:
    """Fetch what these stages have made, as ``dvc.lock`` has it, and lay it out, or send it to the remote.

    What the remote lacks is left out. ``pulse`` is called every second, and may raise to stop it. Raises ``UserError``.
    """
    said: list[str] = []
    code = lifeline.follow("aigc_tasks.sharing", way, *targets, env=os.environ, line=said.append, pulse=pulse)
    if code:
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        raise UserError((errors or said or [f"dvc {way} ended with code {code}"])[-1])


def main(way: str, *targets: str) -> None:
    """``python -m aigc_tasks.sharing pull|push STAGE …``"""
    try:
        with shared() as repo:
            if way == "pull":
                repo.pull(list(targets), allow_missing=True, force=True)
            else:
                repo.push(list(targets))
    except Exception as error:
        line = stage.explain(error)
        if line is None:
            raise
        sys.exit(f"error: {line}")


if __name__ == "__main__":
    main(*sys.argv[1:])
