"""Archives of files, read where they lie and never unpacked: zip, tar and gzipped tar.

Whoever made the archive may mean ill. What a member's header says is checked before anything of it is read: a member
that points out of the archive, is a link, is encrypted or unpacks to too much is an entry with a flaw.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from aigc_tasks.acquire import Entry
from aigc_tasks.errors import UserError

ARCHIVE = re.compile(r"(.+)\.(zip|tar|tar\.gz|tgz)", re.IGNORECASE | re.DOTALL)
LARGEST = 256 << 20  # bytes; a larger file is no picture to learn from
TOO_LARGE = f"larger than {LARGEST >> 20} MiB"
HEADER = 1 << 20  # bytes of a tar header, long names with it; more is meant to fill the memory
BOMB_BYTES, BOMB_RATIO = 16 << 20, 500  # what unpacks to so much and so many times its size is no picture either
JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}
NOTES = {".json", ".txt", ".md"}  # what lies beside pictures to describe them


def is_archive(name: str) -> bool:
    return ARCHIVE.fullmatch(name) is not None


def stem(name: str) -> str:
    """The archive's name without its ending."""
    match = ARCHIVE.fullmatch(name)
    return match[1] if match else name


def offered(path: str) -> bool:
    """Whether a file with this path counts: it is not hidden, nor a system's junk, nor a note at the top."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if any(part in JUNK or (part.startswith(".") and part != "..") for part in parts):
        return False
    return len(parts) > 1 or PurePosixPath(path).suffix.lower() not in NOTES


def spelled(name: str) -> str:
    """A file name in valid Unicode: bytes that are not UTF-8 are written out as ``\\xff``."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def stamp(path: Path) -> str:
    """What changes whenever the file does. The last number also tells a file that was put in another's place."""
    found = path.stat()
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"


def entries(path: Path, prefix: str, source: str) -> Iterator[Entry]:
    """The members of the archive at ``path``; raises ``UserError`` if nothing of it can be read.

    Ids begin with ``prefix``; ``source`` is the archive's name in its source, whose ending tells the format. A zip is
    listed by its members' names. A tar is listed as it lies; where it is damaged, a last entry stands for the rest.
    """
    try:
        if source.lower().endswith(".zip"):
            members = of_zip(path)
        else:
            members = of_tar(path, is_packed=not source.lower().endswith(".tar"))
        for member in members:
            if offered(member.id):
                yield placed(member, prefix, source)
    except PermissionError:
        raise UserError(f"{path}: permission denied; make it readable, or move it out of the source") from None
    except (zipfile.BadZipFile, tarfile.TarError):
        raise UserError(f"{path}: not a whole archive; replace it, or move it out of the source") from None


def placed(member: Entry, prefix: str, source: str) -> Entry:
    """The member under its id in the whole source, with a flaw if its path leads elsewhere."""
    parts = [part for part in member.id.split("/") if part not in ("", ".")]
    id = prefix + ("/".join("%2E%2E" if part == ".." else part for part in parts) or "%2F")
    if member.id.startswith("/") or ".." in parts:
        return member._replace(id=id, source=source, read=None, flaw="points out of its archive")
    return member._replace(id=id, source=source)


def of_zip(path: Path) -> Iterator[Entry]:
    try:
        archive = zipfile.ZipFile(path)  # closed when the last entry that reads from it is gone
        members = sorted(archive.infolist(), key=lambda member: member.filename)
    except PermissionError:
        raise
    except Exception as error:  # a hostile directory makes zipfile raise anything
        raise zipfile.BadZipFile(str(error)) from None
    shared = overlapping(members)
    for member in members:
        if not member.is_dir():
            flaw = "shares its bytes with another" if member.header_offset in shared else zip_flaw(member)
            read = partial(unzipped, archive, member) if flaw is None else None
            name = spelled(member.filename.replace("\\", "/"))  # some programs on Windows write these
            yield Entry(name, None, None, f"{member.CRC:08x}-{member.file_size}", read, flaw=flaw)


def overlapping(members: list[zipfile.ZipInfo]) -> set[int]:
    """Where members begin that another one reaches into: how a small zip unpacks to any size (Fifield 2019)."""
    spans = sorted((member.header_offset, member.header_offset + member.compress_size) for member in members)
    shared, end, owner = set(), -1, -1
    for start, stop in spans:
        if start < end or start == owner:
            shared |= {start, owner}
        if stop > end:
            end, owner = stop, start
    return shared


def zip_flaw(member: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if stat.S_ISLNK(kind):
        return "a link"
    if kind not in (0, stat.S_IFREG):
        return "not a regular file"
    if member.flag_bits & 1:
        return "encrypted"
    if member.file_size > LARGEST:
        return TOO_LARGE
    if member.file_size > BOMB_BYTES and member.file_size > BOMB_RATIO * member.compress_size:
        return f"bomb: unpacks to {member.file_size // max(member.compress_size, 1):,} times its size"
    return None


def unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        return file.read(member.file_size + 1)


class Headers:
    """A file as ``tarfile`` may read it: in pieces of the size of headers. ``last`` is the last one."""

    def __init__(self, file: gzip.GzipFile | io.BufferedReader) -> None:
        self.file, self.tell, self.seek, self.last = file, file.tell, file.seek, b""

    def read(self, size: int) -> bytes:
        if size > HEADER:
            raise tarfile.ReadError("a header of absurd size")
        self.last = self.file.read(size)
        return self.last


def of_tar(path: Path, is_packed: bool) -> Iterator[Entry]:
    """A packed tar can only be read from its beginning on: its members' content is read while it is listed."""
    seen = 0
    with gzip.open(path) if is_packed else open(path, "rb") as file:
        try:
            version, headers = stamp(path), Headers(file)
            archive = tarfile.open(fileobj=headers, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
            while member := archive.next():
                archive.members.clear()  # it would keep them all
                if not member.isdir():
                    read, flaw = None, tar_flaw(member)
                    if flaw is None and is_packed:
                        read = partial(whole, file.read(member.size), member.size)
                    elif flaw is None:
                        read = partial(piece, path, member.offset_data, member.size)
                    yield Entry(spelled(member.name), None, None, f"{version}-{member.offset}", read, flaw=flaw)
                seen += 1
            is_damaged = any(headers.last)  # tarfile takes anything but a header for the end
            file.read(HEADER)  # to the end, where gzip compares its checksum
        except PermissionError:
            raise
        except Exception as error:  # a damaged file makes tarfile and gzip raise anything
            if not seen:
                raise tarfile.ReadError(str(error)) from None
            is_damaged = True
    if is_damaged:
        yield Entry("(the rest)", None, None, None, None, flaw=f"archive damaged after {seen:,} members")


def tar_flaw(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "a link"
    if not member.isreg() or member.issparse():
        return "not a regular file"
    return TOO_LARGE if member.size > LARGEST else None


def piece(path: Path, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        return whole(os.pread(file.fileno(), size, start), size)


def whole(content: bytes, size: int) -> bytes:
    if len(content) < size:
        raise EOFError("cut off")
    return content
