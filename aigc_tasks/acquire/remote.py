"""Files that lie elsewhere, behind http(s) or any protocol that fsspec knows: list them, open them, read them.

Nothing here goes to the network on its own account: cloud libraries are kept from asking the machine's metadata service
for credentials, and stores for more than the files, unless the environment says otherwise (``UNASKED``).
"""

from __future__ import annotations

import html
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import IO, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import fsspec

from aigc_tasks.acquire.archives import regular, spelled, too_large
from aigc_tasks.acquire.places import local, name
from aigc_tasks.acquire.unreachable import DOWN, PATIENT, PAUSES, SILENCE, THERE, Broken, Unreachable, retried

BLOCK = 16 << 20  # bytes of one request where a file is read in ranges
PROBES = 16  # requests at a time that ask for nothing but a file's headers
SILENT = 5  # files in a row without any answer, after which a host is asked for no more
BUSY = 50  # the same of files of which it says only "later"

PACKAGES = {
    **{"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"},
    **{"hf": "huggingface_hub", "az": "adlfs", "abfs": "adlfs", "sftp": "paramiko", "ssh": "paramiko"},
}
UNASKED = {
    **{"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"},
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask another service for the bucket's type before every file
}
VERSIONS = ("etag", "md5hash", "blobid", "lastmodified", "updated", "mtime")  # the surest first


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
    return content(*retried(partial(filesystem, url, options), url), url, options, None, largest)


def content(system: Any, place: str, url: str, options: dict[str, Any] | None, size: int | None, largest: int) -> bytes:
    """``read`` within a file system, of a file whose size may be known."""

    def whole() -> bytes:
        # One that is not shared, as FTP's, is a connection that serves one thread.
        own = system if system.cachable else type(system)(*system.storage_args, **system.storage_options)
        if size is not None and not is_web(system):
            return own.cat_file(place)
        found = bytearray()
        with opened(own, place, options) as stream:
            while len(found) <= largest and (block := stream.file.read(1 << 20)):
                found += block
        return bytes(found)

    try:
        found = b"" if size is not None and size > largest else retried(whole, url)
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
    system, found = located(url, options)
    web = is_web(system)
    if web:
        heads = probes([where for _, where, _ in found], options)
    for number, (path, where, info) in enumerate(found):
        found[number] = ("", "", {})
        if web:
            head = next(heads)
            info = head if isinstance(head, dict) else {}
        size, own = info.get("size"), address(system, url, where)
        yield RemoteFile(path, stamped(info), size, partial(content, system, where, own, options, size), own)


def located(url: str, options: dict[str, Any] | None) -> tuple[Any, list[tuple[str, str, dict[str, Any]]]]:
    """The file system of ``url``, and path, place and what the listing tells of each file there, sorted by path."""
    system, place = retried(partial(filesystem, url, options), url)
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
    if web:
        found = [(path, html.unescape(where) if where != place else where, {}) for path, where, _ in found]
    found.sort(key=lambda file: file[0])
    return system, found


def address(system: Any, url: str, where: str) -> str:
    """The URL of a place within the file system of ``url``."""
    if is_web(system):
        return where
    if "host" in system._get_kwargs_from_urls(url):
        return urlsplit(url)._replace(path="", query="", fragment="").geturl() + where
    return system.unstrip_protocol(where)


def addresses(url: str) -> dict[str, str]:
    """The URL of every file below ``url`` by its path, as it is listed: none is asked for. Raises ``UserError``."""
    system, found = located(url, None)
    return {path: address(system, url, where) for path, where, _ in found}


def beginning(url: str, size: int) -> bytes:
    """The first ``size`` bytes of a file; raises ``UserError``."""
    system, place = retried(partial(filesystem, url, None), url)

    def read() -> bytes:
        found = bytearray()
        with opened(system, place, None) as stream:
            while len(found) < size and (block := stream.file.read(size - len(found))):
                found += block
        return bytes(found)

    return retried(read, url)


def relative(path: str, web: bool) -> str:
    """The path in valid Unicode: bytes that are not UTF-8 are written out as ``\\xff``."""
    if web:
        path = unquote(html.unescape(path), errors="surrogateescape")
    return spelled(path)


def probes(urls: list[str], options: dict[str, Any] | None = None) -> Iterator[dict[str, Any] | Unreachable]:
    """What the servers tell of each URL, in order, or why they tell nothing. A host that is down is not asked on."""
    down: dict[str, Unreachable] = {}
    silent: Counter[str] = Counter()  # files in a row, by host
    answered: dict[str, float] = {}  # when a host last did
    lock = Lock()

    def asked(url: str) -> dict[str, Any]:
        system, place = filesystem(url, options)
        return system.info(place)

    def probe(url: str) -> dict[str, Any] | Unreachable:
        host, began = urlsplit(url).netloc.rpartition("@")[2], time.monotonic()
        if host in down:
            return down[host]
        try:
            told: dict[str, Any] | Unreachable = retried(partial(asked, url), url)
        except Unreachable as error:
            told = error
        with lock:
            if not (isinstance(told, Unreachable) and told.is_network):
                silent[host], answered[host] = 0, time.monotonic()
            elif host not in down:
                # What others got while this file was waited for is an answer in between.
                silent[host] = 1 if answered.get(host, 0.0) > began else silent[host] + 1
                if told.reason in DOWN or silent[host] >= (SILENT if told.is_silent else BUSY):
                    down[host] = told
                    print(f"{host}: {told.reason}: given up, not asked for more; check the network", flush=True)
        return told

    with ThreadPoolExecutor(PROBES) as pool:
        for first in range(0, len(urls), 16 * PROBES):  # so that a long list is not asked for ahead of its readers
            yield from pool.map(probe, urls[first : first + 16 * PROBES])


def stamped(info: dict[str, Any]) -> str | None:
    """The version that a store tells of a file; None if it tells none."""
    told = {re.sub("[-_]", "", key.lower()): value for key, value in info.items()}  # each store has its spelling
    return next((f"{told[key]} {told.get('size')}" for key in VERSIONS if told.get(key)), None)


def is_web(system: Any) -> bool:
    return "http" in system.protocol


def filesystem(url: str, options: dict[str, Any] | None) -> tuple[Any, str]:
    """fsspec's file system for the URL's protocol, and the place within; raises ``UserError`` if there is none.

    Some connect to their host here, and raise anything where that fails.
    """
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
        kind = fsspec.get_filesystem_class(protocol)
        return kind(**{**kind._get_kwargs_from_urls(url), **options}), url
    except ImportError:
        package = PACKAGES.get(protocol, f"that brings {protocol}:// to fsspec")
        mend = f"install it: pip install {package}" if protocol in PACKAGES else "install it"
        raise Unreachable(url, f"needs the package {package}", mend) from None
    except ValueError:
        raise Unreachable(url, f"there is no protocol {protocol}://", f"{THERE}: file, https, s3, gs, hf …") from None
    except (TypeError, KeyError) as error:
        raise Unreachable(url, f"refuses its options ({error})", "correct `options` in params.yaml") from None
