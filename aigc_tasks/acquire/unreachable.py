"""Why a remote file cannot be had, in one line with its mend, and whether another try can help."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from aigc_tasks.acquire.places import shown
from aigc_tasks.errors import UserError

PAUSES = (1.0, 2.0, 4.0)  # seconds between two tries
SILENCE = 30  # seconds without a byte, after which a connection counts as broken
BUSY = (408, 425, 429, 500, 502, 503, 504)  # HTTP's ways to say "later"
DOWN = ("connection refused", "unknown host")  # what is the matter with a host, not with one file
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what is the matter with this machine
PATIENT = ("gs", "gcs")  # whose package tries six times before it gives up, for half a minute

THERE = "correct `source` in params.yaml"
NETWORK = "check the network, and `source` in params.yaml"
KEYS = "set credentials in the environment, or `options` in params.yaml (`anon: true` where everybody may read)"

T = TypeVar("T")


class Broken(Exception):
    """A file that came incomplete or damaged: worth another try."""


class Unreachable(UserError):
    """A file or folder that cannot be had, after all tries."""

    def __init__(self, url: str, reason: str, mend: str) -> None:
        super().__init__(f"{shown(url)}: {reason}; {mend}")
        self.reason = reason
        self.is_network = mend == NETWORK  # not a matter of this one file
        self.is_silent = self.is_network and not reason[:3].isdigit()  # no answer came: a status is one


def retried(action: Callable[[], T], url: str) -> T:
    """What ``action`` gives, after up to three more tries where waiting can help; raises ``Unreachable``."""
    pauses = () if urlsplit(url).scheme.lower() in PATIENT else PAUSES
    for pause in (*pauses, None):
        try:
            return action()
        except UserError:
            raise
        except Exception as error:  # every protocol's package has its own
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            why, mend, is_passing = diagnosis(error)
            if pause is None or not is_passing:
                raise Unreachable(url, why, mend) from error
            print(f"{shown(url)}: {why}; trying again in {pause:g} s", flush=True)
            time.sleep(pause)
    raise AssertionError


def diagnosis(error: Exception) -> tuple[str, str, bool]:
    """What went wrong in few words, the mend, and whether another try can help."""
    again = not type(error).__module__.startswith("botocore")  # it has tried again already
    for cause in causes(error):
        kind = type(cause).__name__
        status = getattr(cause, "code" if kind == "HttpError" else "status", None)  # gcsfs has its own
        status = status or getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and status >= 400:
            mend = KEYS if status in (401, 403) else NETWORK if status in BUSY else THERE
            return str(status), mend, status in BUSY
        if kind == "TooManyRedirects":
            return "redirects in a circle", THERE, False
        if kind in ("NonHttpUrlRedirectClientError", "InvalidUrlRedirectClientError"):
            return f"redirects to {shown(first_line(cause))}, which is no web address", THERE, False
        if kind in ("error_temp", "error_perm"):  # of FTP, which has numbers of its own
            said, is_passing = first_line(cause), kind == "error_temp"
            return said, NETWORK if is_passing else KEYS if said.startswith("530") else THERE, is_passing
        if kind == "ParamValidationError" and "bucket name" in str(cause):  # of S3's, whose own words fill lines
            return "no bucket has such a name", THERE, False
        if "Credentials" in kind:
            return "no credentials", KEYS, False
        if isinstance(cause, PermissionError) or str(cause).startswith("Forbidden: "):  # as gcsfs says it
            return f"no permission ({first_line(cause)})", KEYS, False
        if isinstance(cause, FileNotFoundError):
            said = str(cause.filename or cause)
            gone = "no such bucket" if "bucket does not exist" in said else "no such file"
            what = "404" if said.startswith("http") else gone
            return what, THERE, False
        if isinstance(cause, OSError) and cause.errno == errno.EINVAL:  # see ``regular``
            return str(cause.strerror), THERE, False
        if isinstance(cause, socket.gaierror):
            return "unknown host", NETWORK, again and cause.errno == socket.EAI_AGAIN
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused", NETWORK, again
        if "Certificate" in kind:
            return "its certificate is not valid", THERE, False
        if isinstance(cause, TimeoutError) or "Timeout" in kind:
            return f"no answer for {SILENCE} s", NETWORK, again
        if isinstance(cause, ConnectionError) or kind in ("ClientPayloadError", "ServerDisconnectedError"):
            return "the connection broke off", NETWORK, again
        if isinstance(cause, TypeError) and "argument" in str(cause):
            return f"refuses its options ({cause})", "correct `options` in params.yaml", False
    return first_line(error), NETWORK, isinstance(error, Broken)


def first_line(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error).partition("\n")[0].strip() or type(error).__name__


def causes(error: BaseException | None) -> list[BaseException]:
    """The error and what it came from, the first cause first. Storage packages chain them, each in its own way."""
    if error is None:
        return []
    hidden = error.__context__ if error.__suppress_context__ else None
    return [*causes(error.__cause__ or getattr(error, "kwargs", {}).get("error") or hidden), error]
