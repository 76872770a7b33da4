"""Files that lie elsewhere, behind http(s) or any protocol that fsspec knows: list them, read them, download them.

Nothing here goes to the network on its own account: cloud libraries are kept from asking the machine's metadata service
for credentials, and stores for more than the files, unless the environment says otherwise (``UNASKED``).
"""

from __future__ import annotations

import errno
import hashlib
import html
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import fsspec

from aigc_tasks.acquire.archives import regular, spelled, too_large
from aigc_tasks.errors import UserError
from aigc_tasks.progress import progress

PAUSES = (1.0, 2.0, 4.0)  # seconds between two tries
SILENCE = 30  # seconds without a byte, after which a connection counts as broken
BLOCK = 16 << 20  # bytes of one request where a file is read in ranges
PROBES = 16  # requests at a time that ask for nothing but a file's headers

PACKAGES = {
    **{"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"},
    **{"hf": "huggingface_hub", "az": "adlfs", "abfs": "adlfs", "sftp": "paramiko", "ssh": "paramiko"},
}
UNASKED = {
    **{"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"},
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask another service for the bucket's type before every file
}
VERSIONS = ("etag", "md5hash", "blobid", "lastmodified", "updated", "mtime")  # the surest first
BUSY = (408, 425, 429, 500, 502, 503, 504)  # HTTP's ways to say "later"
PATIENT = ("gs", "gcs")  # whose package tries six times before it gives up, for half a minute
SIGNED = re.compile(r"(^|[&_-])(signature|sig)=", re.IGNORECASE)
SECRET = re.compile(r"(^|[_-])(token|api_?key|key|auth|password|secret|credential)=", re.IGNORECASE)

THERE = "correct `source` in params.yaml"
NETWORK = "check the network, and `source` in params.yaml"
KEYS = "set credentials in the environment, or `options` in params.yaml (`anon: true` where everybody may read)"

T = TypeVar("T")


class RemoteFile(NamedTuple):
    path: str  # relative to the prefix, in valid Unicode; the file's own name if the prefix is a file
    stamp: str | None  # changes whenever the content does; None: the server tells nothing
    size: int | None  # bytes
    read: Callable[[int], bytes]  # as `read` does, given the most bytes
    url: str


class Stream(NamedTuple):
    """An open remote file."""

    file: IO[bytes]
    start: int  # where it begins
    size: int | None  # bytes of the whole file
    stamp: str | None


class Broken(Exception):
    """A file that came incomplete or damaged: worth another try."""


class Unreachable(UserError):
    """A file or folder that cannot be had, after all tries."""

    def __init__(self, url: str, reason: str, mend: str) -> None:
        super().__init__(f"{shown(url)}: {reason}; {mend}")
        self.reason = reason
        self.is_network = mend == NETWORK  # not a matter of this one file


def is_url(place: str) -> bool:
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", place) is not None


def name(url: str) -> str:
    """The file name at the end of a URL, fit for a local file."""
    path = unquote(urlsplit(url).path) if url.startswith(("http", "file")) else url
    last = re.sub(r"[\x00-\x1f]", "_", path.rstrip("/").rpartition("/")[2])
    last = last.encode(errors="replace")[-200:].decode(errors="ignore")  # file systems count bytes
    return last if last not in ("", ".", "..") else "download"


def shown(url: str) -> str:
    """The URL as it may be printed and stored: without passwords, and without the query that signs it."""
    parts = urlsplit(url)
    told = [] if SIGNED.search(parts.query) else [part for part in parts.query.split("&") if not SECRET.search(part)]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(told)).geturl()


def download(
    url: str, into: Path, md5: str | None = None, sha256: str | None = None, options: dict[str, Any] | None = None
) -> Path:
    """Fetch ``url`` into the folder ``into`` under its own name and return the path; raises ``UserError``.

    A killed download goes on where it was, if the server can and the file there is still the same. A file that is here
    already and whole is not fetched again. ``options`` go to fsspec. A small hidden file keeps the version.
    """
    into.mkdir(parents=True, exist_ok=True)
    final = into / name(url)
    sums = checksums(md5, sha256)
    if sums and final.exists() and not mismatch(final, sums):
        return final
    unfinished = final.with_name(f"{final.name}.part")
    while True:
        had = length(unfinished)
        try:
            retried(partial(fetch, url, final, sums, options), url)
            return final
        except Unreachable:
            if length(unfinished) <= had:  # as long as a round of tries brings some bytes, it goes on
                raise


def checksums(md5: str | None, sha256: str | None) -> dict[str, str]:
    return {kind: value.lower() for kind, value in (("md5", md5), ("sha256", sha256)) if value}


def mismatch(file: Path, sums: dict[str, str]) -> str | None:
    """What is wrong with the file's checksums."""
    for kind, expected in sums.items():
        with open(file, "rb") as content:
            found = hashlib.file_digest(content, kind).hexdigest()
        if found != expected:
            return f"its {kind} is {found}, not {expected}"
    return None


def length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def fetch(url: str, final: Path, sums: dict[str, str], options: dict[str, Any] | None) -> None:
    """One try of ``download``. The .part file and the note of its version stay where it fails."""
    part, note = final.with_name(f"{final.name}.part"), final.with_name(f".{final.name}.version")
    known = note.read_text() if note.exists() else ""
    # The last byte is asked for again: a range that begins at the end of a file is an error.
    start = max(length(part) - 1, 0) if known and not final.exists() else 0
    with opened(*filesystem(url, options), options, start) as stream:
        version = stream.stamp or ("" if stream.size is None else f"{stream.size} bytes")
        if final.exists() and version == known and stream.size == length(final) and not sums:
            return
        if stream.start and version != known:
            part.unlink()
            raise Broken("changed since the download began")
        if not stream.start:
            final.unlink(missing_ok=True)
            part.unlink(missing_ok=True)
            note.write_text(version)
        with open(part, "ab") as file, progress(f"download {final.name}", stream.size or 0, stream.start) as update:
            block = stream.file.read(1 << 20)  # before anything is given up of what came earlier
            file.truncate(stream.start)
            while block:
                file.write(block)
                update(file.tell(), "bytes")
                block = stream.file.read(1 << 20)
    if stream.size is not None and length(part) != stream.size:
        raise Broken(f"{length(part):,} of {stream.size:,} bytes came")
    if wrong := mismatch(part, sums):
        part.unlink()
        if stream.start:
            raise Broken(wrong)
        raise Unreachable(url, wrong, "correct the checksum, or the file there")
    part.replace(final)


@contextmanager
def opened(system: Any, place: str, options: dict[str, Any] | None, start: int = 0) -> Iterator[Stream]:
    """The file from byte ``start`` on, or from the beginning where the server cannot begin elsewhere."""
    if not is_web(system):
        info, ahead = system.info(place), {"block_size": BLOCK, "cache_type": "readahead"}
        with regular(place) if "file" in system.protocol else system.open(place, "rb", **ahead) as file:
            file.seek(min(start, info["size"] or 0))
            yield Stream(file, start, info["size"], stamped(info))
        return
    # One request for the whole file, where fsspec's seekable files make one for every block; a size spares the request
    # for it.
    headers = {**(options or {}).get("headers", {}), "Accept-Encoding": "identity"}
    streamed = partial(system.open, place, block_size=0, size=1)
    try:
        file = streamed(headers=headers | {"Range": f"bytes={start}-"} if start else headers)
    except Exception as error:
        if getattr(error, "status", None) != 416:
            raise
        file = streamed(headers=headers)  # it has become shorter than that
    with file:
        answer = file.r
        ranged = re.match(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status == 206 and not (ranged and int(ranged[1]) == start):
            raise Broken("the server sent another range than it was asked for")
        is_encoded = answer.headers.get("Content-Encoding", "identity") != "identity"  # the length is another one then
        size = int(ranged[2]) if ranged else None if is_encoded else answer.content_length
        info = {**answer.headers, "size": size}
        yield Stream(file, start if ranged else 0, size, stamped(info))


def read(url: str, largest: int, options: dict[str, Any] | None = None) -> bytes:
    """One file of at most so many bytes; raises ``UserError`` if the network fails, ``ValueError`` if only it does."""
    return content(*filesystem(url, options), options, None, largest)


def content(system: Any, place: str, options: dict[str, Any] | None, size: int | None, largest: int) -> bytes:
    """``read`` within a file system, of a file whose size may be known."""

    def whole() -> bytes:
        if size is not None and not is_web(system):
            return system.cat_file(place)
        found = bytearray()
        with opened(system, place, options) as stream:
            while len(found) <= largest and (block := stream.file.read(1 << 20)):
                found += block
        return bytes(found)

    try:
        where = place if is_web(system) else system.unstrip_protocol(place)
        found = b"" if size is not None and size > largest else retried(whole, where)
    except Unreachable as error:
        if error.is_network:
            raise
        raise ValueError(error.reason) from None
    if max(size or 0, len(found)) > largest:
        raise ValueError(too_large(largest))
    return found


def files(url: str, options: dict[str, Any] | None = None) -> Iterator[RemoteFile]:
    """Every file below ``url``, which is no folder of this machine, sorted by path; raises ``UserError`` if none is.

    Over http(s) a folder is the page that lists it, and each file's version is asked for by its headers. Other stores
    are listed page by page; a listing takes 1.5 kB of memory a file. Links are not followed.
    """
    system, place = filesystem(url, options)
    web = is_web(system)
    strict = {"on_error": "raise"} if web else {}  # others raise of themselves; it would leave out what it cannot list
    system.invalidate_cache()
    listed = retried(lambda: system.find(place, detail=True, **strict), url)
    system.invalidate_cache()  # a listing is large: nothing of it is kept but what follows
    prefix = system._strip_protocol(place).rstrip("/") + "/"
    found = [
        (relative(where.removeprefix(prefix), web) if where.startswith(prefix) else name(url), where, info)
        for where, info in listed.items()
        if info.get("type", "file") == "file" and not where.endswith("/")
        if not web or where == place or "?" not in where  # a listing's links that sort it
    ]
    del listed
    if not found:
        raise Unreachable(url, "there is nothing", THERE)
    found.sort(key=lambda file: file[0])
    if web:
        places = [html.unescape(where) if where != place else where for _, where, _ in found]
        heads = probes(places, options)
        found = [(path, where, {}) for (path, _, _), where in zip(found, places, strict=True)]
    for number, (path, where, info) in enumerate(found):
        found[number] = ("", "", {})
        if web:
            head = next(heads)
            info = head if isinstance(head, dict) else {}
        size = info.get("size")
        own = where if web else system.unstrip_protocol(where)
        yield RemoteFile(path, stamped(info), size, partial(content, system, where, options, size), own)


def relative(path: str, web: bool) -> str:
    """The path in valid Unicode: bytes that are not UTF-8 are written out as ``\\xff``."""
    if web:
        path = unquote(html.unescape(path), errors="surrogateescape")
    return spelled(path)


def probes(urls: list[str], options: dict[str, Any] | None = None) -> Iterator[dict[str, Any] | Unreachable]:
    """What the servers tell of each URL, in order, or why they tell nothing. A host that is down is not asked on."""
    down: dict[str, Unreachable] = {}

    def probe(url: str) -> dict[str, Any] | Unreachable:
        host = urlsplit(url).netloc
        if host in down:
            return down[host]
        try:
            system, place = filesystem(url, options)
            return retried(partial(system.info, place), url)
        except Unreachable as error:
            if error.is_network:
                down[host] = error
            return error

    with ThreadPoolExecutor(PROBES) as pool:
        for first in range(0, len(urls), 16 * PROBES):  # so that a long list is not asked for ahead of its readers
            yield from pool.map(probe, urls[first : first + 16 * PROBES])


def stamped(info: dict[str, Any]) -> str | None:
    """The version that a store tells of a file; None if it tells none."""
    told = {re.sub("[-_]", "", key.lower()): value for key, value in info.items()}  # each store has its spelling
    return next((f"{told[key]} {told.get('size')}" for key in VERSIONS if told.get(key)), None)


def local(url: str) -> Path | None:
    """The path that the URL names on this machine; None if it leads elsewhere."""
    parts = urlsplit(url)
    return Path(os.fsdecode(unquote_to_bytes(parts.path))) if parts.scheme.lower() in ("file", "local") else None


def is_web(system: Any) -> bool:
    return "http" in system.protocol


def filesystem(url: str, options: dict[str, Any] | None) -> tuple[Any, str]:
    """fsspec's file system for the URL's protocol, and the place within; raises ``UserError`` if there is none."""
    protocol, options = urlsplit(url).scheme.lower(), dict(options or {})
    for variable, value in UNASKED.items():
        os.environ.setdefault(variable, value)
    if path := local(url):
        return fsspec.filesystem("file", **options), str(path)
    try:
        if protocol in ("http", "https"):
            import aiohttp

            patience = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
            options["client_kwargs"] = {"timeout": patience, "trust_env": True, **options.get("client_kwargs", {})}
        if protocol in ("s3", "s3a"):
            retries = {"mode": "standard", "max_attempts": len(PAUSES) + 1}
            options["config_kwargs"] = {"retries": retries, **options.get("config_kwargs", {})}
            options.setdefault("max_concurrency", 1)  # with more it asks for a file's size before it asks for the file
        if protocol in PATIENT:
            logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # a traceback for what is said in one line here
        return fsspec.filesystem(protocol, **options), url
    except ImportError:
        package = PACKAGES.get(protocol, f"that brings {protocol}:// to fsspec")
        mend = f"install it: pip install {package}" if protocol in PACKAGES else "install it"
        raise Unreachable(url, f"needs the package {package}", mend) from None
    except ValueError:
        raise Unreachable(url, f"there is no protocol {protocol}://", f"{THERE}: file, https, s3, gs, hf …") from None
    except (TypeError, KeyError) as error:
        raise Unreachable(url, f"refuses its options ({error})", "correct `options` in params.yaml") from None


def retried(action: Callable[[], T], url: str) -> T:
    """What ``action`` gives, after up to three more tries where waiting can help; raises ``Unreachable``."""
    pauses = () if urlsplit(url).scheme.lower() in PATIENT else PAUSES
    for pause in (*pauses, None):
        try:
            return action()
        except UserError:
            raise
        except Exception as error:  # every protocol's package has its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
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
