"""Archives of files, read where they lie and never unpacked: zip, tar and packed tar.

Whoever made the archive may mean ill. What a member's header says is checked before anything of it is read: a member
that points out of the archive, is a link, is encrypted or unpacks to too much is an entry with a flaw.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from aigc_tasks.acquire import Entry
from aigc_tasks.errors import UserError

PACKED: dict[str, Any] = {  # a packed tar's endings, and what opens it; not xz, which may ask for GiBs of memory
    ".tar.gz": gzip.open, ".tgz": gzip.open, ".tar.bz2": bz2.open, ".tbz2": bz2.open, ".tbz": bz2.open,
}  # fmt: skip
TARS = (".tar", *PACKED)
ARCHIVE = re.compile(rf"(.+)(\.zip|{'|'.join(map(re.escape, TARS))})", re.IGNORECASE | re.DOTALL)
READ = "zip, tar, tar.gz, tar.bz2"
OTHERS = (".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz", ".tar.lz4", ".tar.z", ".7z", ".rar")
NOT_READ = f"unreadable archive (only {READ} are read)"
HEADER = 1 << 20  # bytes of a tar header, long names with it; more is meant to fill the memory
METHODS = {12: "bzip2", 14: "lzma"}  # which zipfile unpacks without a bound; it bounds stored and deflated members
BOMB_BYTES, BOMB_RATIO = 16 << 20, 500  # what unpacks to so much and so many times its size is no picture either
BOMB = f"bomb (its archive unpacks to more than {BOMB_RATIO} times its size)"
DAMAGED = "archive damaged (after {:,} members)"
REST = "(the rest)"  # the id of what is behind the place where an archive cannot be read on
JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}
NOTES = {".json", ".txt", ".md"}  # what lies beside pictures to describe them


def is_archive(name: str) -> bool:
    return ARCHIVE.fullmatch(name) is not None


def is_other(name: str) -> bool:
    """Whether it is an archive of a kind that is not read."""
    return name.lower().endswith(OTHERS)


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


def too_large(largest: int) -> str:
    """The flaw of a file of more than so many bytes."""
    return f"larger than {largest >> 20:,} MiB"


def regular(path: Path | str, flags: int = 0) -> BinaryIO:
    """The file, open, if it is a regular one: a pipe would wait for its writer, a device may have no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(descriptor, "rb")


def entries(path: Path, prefix: str, source: str, largest: int, place: str | None = None) -> Iterator[Entry]:
    """The members of the archive at ``path``; raises ``UserError`` if nothing of it can be read.

    Ids begin with ``prefix``; ``source`` is the archive's name in its source, whose ending tells the format. A zip is
    listed by its members' names. A tar is listed as it lies; where it is damaged, a last entry stands for the rest.
    Members of more than ``largest`` bytes have a flaw, and those too that only a bomb unpacks to.
    ``place`` is the URL that the archive was brought from: errors name it.
    """
    try:
        is_zip = source.lower().endswith(".zip")
        for member in of_zip(path, largest) if is_zip else of_tar(path, source, largest):
            if offered(member.id):
                yield placed(member, prefix, source)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{place or path}: {reason}; make it readable, or move it out of the source") from None
    except (zipfile.BadZipFile, tarfile.TarError):
        raise UserError(f"{place or path}: not a whole archive; replace it, or move it out of the source") from None


def placed(member: Entry, prefix: str, source: str) -> Entry:
    """The member under its id in the whole source, with a flaw if its path leads elsewhere or it is an archive."""
    parts = [part for part in member.id.split("/") if part not in ("", ".")]
    id = prefix + ("/".join("%2E%2E" if part == ".." else part for part in parts) or "%2F")
    if member.id.startswith("/") or ".." in parts:
        return member._replace(id=id, source=source, read=None, flaw="points out of its archive")
    if member.flaw is None and (is_archive(id) or is_other(id)):
        return member._replace(id=id, source=source, read=None, flaw="archive within an archive")
    return member._replace(id=id, source=source)


def of_zip(path: Path, largest: int) -> Iterator[Entry]:
    file = regular(path)  # closed when the last entry that reads from it is gone
    try:
        archive = zipfile.ZipFile(file)
        members = sorted(archive.infolist(), key=lambda member: member.filename)
    except Exception as error:  # a hostile directory makes zipfile raise anything
        raise zipfile.BadZipFile(str(error)) from None
    shared, room = overlapping(members), allowed(path, largest)
    for member in members:
        if not member.filename.endswith("/"):  # is_dir() fails on a name that damage has emptied
            flaw = "shares its bytes with another" if member.header_offset in shared else zip_flaw(member, largest)
            room -= member.file_size if flaw is None else 0
            flaw = BOMB if flaw is None and room < 0 else flaw
            read = partial(unzipped, archive, member) if flaw is None else None
            name = spelled(member.filename.replace("\\", "/"))  # some programs on Windows write these
            version = f"{member.CRC:08x}-{member.file_size}"
            yield Entry(name, None, None, version, read, flaw=flaw, size=member.file_size)


def allowed(path: Path, largest: int) -> int:
    """Bytes that all members of the archive may unpack to."""
    return max(largest, BOMB_RATIO * path.stat().st_size)


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


def zip_flaw(member: zipfile.ZipInfo, largest: int) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if stat.S_ISLNK(kind):
        return "a link"
    if kind not in (0, stat.S_IFREG):
        return "not a regular file"
    if member.flag_bits & 1:
        return "encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by {METHODS.get(member.compress_type, 'an unknown method')}"
    if member.file_size > largest:
        return too_large(largest)
    if member.file_size > BOMB_BYTES and member.file_size > BOMB_RATIO * member.compress_size:
        return f"bomb (unpacks to {member.file_size // max(member.compress_size, 1):,} times its size)"
    return None


def unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        return file.read(member.file_size + 1)


class Headers:
    """A file as ``tarfile`` may read it: in pieces of the size of headers. ``last`` is the last one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.tell, self.seek, self.last = file, file.tell, file.seek, b""

    def read(self, size: int) -> bytes:
        if size > HEADER:
            raise tarfile.ReadError("a header of absurd size")
        self.last = self.file.read(size)
        return self.last


def unpacks(name: str) -> Any:
    """What opens a packed tar of this name; None if it is not packed."""
    return next((opener for ending, opener in PACKED.items() if name.lower().endswith(ending)), None)


def of_tar(path: Path, name: str, largest: int) -> Iterator[Entry]:
    """A packed tar, as the ending of ``name`` tells, can only be read from its beginning on: its members' content is
    read while it is listed.
    """
    seen, rest, is_packed = 0, None, unpacks(name) is not None
    with regular(path) as opened, unpacks(name)(opened) if is_packed else opened as file:
        try:
            version, headers, room = stamp(path), Headers(file), allowed(path, largest)
            archive = tarfile.open(fileobj=headers, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
            while member := archive.next():
                archive.members.clear()  # it would keep them all
                if member.size < 0:  # it would read the same header again, for ever
                    raise tarfile.ReadError("a negative size")
                if not member.isdir():
                    if is_packed and member.offset_data + member.size > room:
                        rest = BOMB
                        break
                    read, flaw = None, tar_flaw(member, largest)
                    if flaw is None and is_packed:
                        read = partial(whole, file.read(member.size), member.size)
                    elif flaw is None:
                        read = partial(piece, path, version, member.offset_data, member.size)
                    stamped = f"{version}-{member.offset}"
                    yield Entry(spelled(member.name), None, None, stamped, read, flaw=flaw, size=member.size)
                seen += 1
            else:
                is_damaged = any(headers.last)  # tarfile takes anything but a header for the end
                file.read(HEADER)  # to the end, where it compares its checksum
                rest = DAMAGED.format(seen) if is_damaged else None
        except Exception as error:  # a damaged file makes tarfile and what unpacks it raise anything
            if not seen:
                raise tarfile.ReadError(str(error)) from None
            rest = DAMAGED.format(seen)
    if rest:
        yield Entry(REST, None, None, None, None, flaw=rest)


def tar_flaw(member: tarfile.TarInfo, largest: int) -> str | None:
    if member.issym() or member.islnk():
        return "a link"
    if not member.isreg() or member.issparse():
        return "not a regular file"
    return too_large(largest) if member.size > largest else None


def piece(path: Path, version: str, start: int, size: int) -> bytes:
    """Some bytes of the file whose stamp is ``version``; raises ``UserError`` if it is another one by now."""
    try:
        with regular(path) as file:
            return whole(os.pread(file.fileno(), size, start), size)
    finally:
        unless_changed(path, version)


def unless_changed(path: Path, version: str) -> None:
    """Raise ``UserError`` if the file is not the one that was listed: what was read of it may be another entry's."""
    try:
        is_same = stamp(path) == version
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise UserError(f"{path}: changed while it was read; run the same command again as soon as it is whole")


def whole(content: bytes, size: int) -> bytes:
    if len(content) < size:
        raise EOFError("cut off")
    return content
