"""What the name of a place tells: whether it is a URL, and what of it may be shown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

SIGNED = re.compile(r"(^|[&_-])(signature|sig)=", re.IGNORECASE)
SECRET = re.compile(r"(^|[_-])(token|api_?key|key|auth|password|secret|credential)=", re.IGNORECASE)


def is_url(place: str) -> bool:
    try:
        urlsplit(place)
    except ValueError:  # brackets for a host that hold no address
        return False
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", place) is not None


def local(url: str) -> Path | None:
    """The path that the URL names on this machine; None if it leads elsewhere."""
    if not is_url(url) or (parts := urlsplit(url)).scheme not in ("file", "local"):
        return None
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))


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
