"""What every stage's process does around its one function: watch DVC and edits, keep time, say errors in one line."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType

from aigc_tasks import layout, lifeline
from aigc_tasks.errors import UserError

EXPERIMENTS = Path(".dvc/tmp/exps")  # where DVC has a copy of the project for `dvc exp run --temp` and `--queue`
MENDS = {
    errno.ENOSPC: "free some disk space, then run the same command again: it goes on where it was",
    errno.EDQUOT: "your disk quota is used up; free some space, then run the same command again",
    errno.EFBIG: "files may not be as large here (`ulimit -f`); allow larger ones, then run the same command again",
    errno.EACCES: "make it readable and writable for you, then run the same command again",
    errno.EPERM: "make it readable and writable for you, then run the same command again",
    errno.ENOTDIR: "a file stands where a folder should be; move it away",
    errno.EEXIST: "it is in the way; move it",
    errno.EROFS: "the file system is read-only; work in a folder that you can write",
}
HELD = "another program keeps it locked; end that, then run the same command again"
REFUSALS = {  # by SQLite's codes
    sqlite3.SQLITE_BUSY: HELD,
    sqlite3.SQLITE_LOCKED: HELD,
    sqlite3.SQLITE_READONLY: MENDS[errno.EACCES],
    sqlite3.SQLITE_CANTOPEN: f"{MENDS[errno.EACCES]}, or free some disk space",
    sqlite3.SQLITE_FULL: MENDS[errno.ENOSPC],
    sqlite3.SQLITE_IOERR: MENDS[errno.ENOSPC],
}


def explain(error: BaseException | None) -> str | None:
    """One line for a user's error, or what the machine refused, be it inside a library's error; None for the rest."""
    if isinstance(error, UserError):
        return str(error)
    if (line := damaged(error) or refused(error)) is not None:
        return line
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            where = f"{error.filename}: " if error.filename else ""
            mend = MENDS.get(error.errno)
            return f"{where}{error.strerror}" + (f"; {mend}" if mend else "")
        if type(error).__name__ == "MlflowException":  # by name: to import it takes a second
            return f"MLflow: {str(error).splitlines()[0]}"
        if is_away(error):
            said = (str(error) or type(error).__name__).splitlines()[0]
            return f"Prefect's server: {said}; see that it runs, and run the same command again"
        error = error.__cause__
    return None


def is_away(error: BaseException) -> bool:
    """Whether Prefect's server cannot be reached or fails, by the library that its client is made of."""
    names = {base.__name__ for base in type(error).__mro__ if base.__module__.partition(".")[0] == "httpx"}
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return "TransportError" in names or ("HTTPStatusError" in names and status >= 500)


def damaged(error: BaseException | None) -> str | None:
    """One line for a database that SQLite finds damaged, also below errors of MLflow's; None for other errors."""
    while error is not None:
        if is_damage(error):
            from aigc_tasks import tracking  # here: few errors need it

            path = Path(tracking.tracking_uri().removeprefix(tracking.SQLITE))
            if tracking.store() is None or is_whole(path):
                mend = (
                    "move .dvc/tmp and DVC's site cache away, DVC makes them again, or .aigc/tune, if it is a search's"
                )
                return f"a database is damaged ({error}); {mend}"
            mend = (
                "put a copy back, or move it away: runs and versions in it are then gone, models and data stay in DVC"
            )
            return f"{path}: damaged ({error}); {mend}"
        error = error.__cause__
    return None


def refused(error: BaseException | None) -> str | None:
    """One line for a database that SQLite cannot read or write as it is, also below errors of MLflow's."""
    while error is not None:
        if (mend := REFUSALS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)) is not None:
            return f"a database of DVC's, MLflow's or a search's (.dvc/tmp, mlruns, .aigc/tune): {error}; {mend}"
        error = error.__cause__
    return None


def is_damage(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_whole(path: Path) -> bool:
    """Whether a database of SQLite is not damaged, or not there."""
    if not path.exists():
        return True
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError as error:
        return not is_damage(error)  # that it is locked, or not finished, is no damage


def terminate(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
    raise SystemExit(128 + signum)


def leave_rubbish() -> None:
    """At the end do not look for it among all that was imported; torch's compiler complains of what it finds left."""
    if "torch" not in sys.modules:
        gc.freeze()


def belong_to_checkout() -> None:
    """In a copy of the project that DVC deletes after an experiment, keep runs and look for sources in the checkout."""
    from aigc_tasks import tracking

    checkout = Path(os.environ.get("DVC_ROOT", ""))
    if Path.cwd().is_relative_to(checkout / EXPERIMENTS):
        os.environ.setdefault(layout.CHECKOUT, str(checkout))
        os.environ.setdefault(tracking.NAMED, f"{tracking.SQLITE}{checkout / tracking.STORE / 'mlflow.db'}")


def main(function: Callable[[str], None]) -> None:
    """Run ``function(name)`` with the name from the command line; exit with 1 and one line on a user's error.

    It imports the stage's work itself: from the first seconds on DVC is watched, and Ctrl-C ends without a traceback.
    What follows the name on the command line is there for DVC to see.
    """
    name = function.__name__
    if len(sys.argv) < 2:
        sys.exit(f"usage: python -m aigc_tasks.{name} NAME")
    signal.signal(signal.SIGTERM, terminate)  # so that `finally` runs: a stage ends, it does not vanish
    lifeline.end_with_dvc()
    atexit.register(leave_rubbish)
    began = time.monotonic()
    try:
        from aigc_tasks import edits  # here: it reads params.yaml with what the command line can do without

        belong_to_checkout()
        check = edits.watch(name, sys.argv[1])
        function(sys.argv[1])
        check()
        layout.replace(seconds_file(f"{name}@{sys.argv[1]}"), f"{time.monotonic() - began:.3f}\n")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise  # a fault of ours: the traceback is what mends it
        sys.exit(f"error: {line}")


def seconds_file(stage: str) -> Path:
    return layout.LOCAL / "seconds" / stage


def seconds(stage: str) -> float | None:
    """How long the stage took when it last ran in this checkout, None if it never did."""
    try:
        with open(seconds_file(stage)) as file:
            return float(file.read())
    except (OSError, ValueError):
        return None
