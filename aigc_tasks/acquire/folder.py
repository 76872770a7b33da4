"""Any folder of pictures, or archives of them: mixed sizes and modes, labelled by class folders or not.

The raw folder holds archives alone: those of the source as they are, loose pictures in one more. A data set is then a
handful of files to DVC, however many samples it has. Entries are decoded from the archive, never unpacked to disk.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field

from aigc_tasks import acquire
from aigc_tasks.errors import UserError

ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm"}
FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]  # Pillow's others are not asked: EPS runs a program
ARCHIVE = re.compile(r"(.+)\.(zip|tar|tar\.gz|tgz)", re.IGNORECASE)
LOOSE = "files.zip"
LARGEST = 1 << 28  # bytes; a larger file is no picture to learn from
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MEND = "set `source` in params.yaml to a folder of pictures or to a .zip, .tar, .tar.gz or .tgz file of them"

Entries = dict[PurePosixPath, Callable[[], IO[bytes] | None]]
"""The pictures of one archive in the order of their paths, each with a function that opens it."""


class Source(acquire.Source):
    kind: Literal["folder"]
    source: str = Field(description="folder of pictures or of archives of them, or one .zip, .tar, .tar.gz, .tgz file")
    labels: bool | None = Field(
        None, description="pictures lie in folders named after their class; without it: if they lie in two or more"
    )

    def fetch(self, folder: Path) -> None:
        place = Path(self.source).expanduser()
        try:
            archives, loose = found(place)
            if loose and any(archive.name == LOOSE for archive in archives):
                raise UserError(f"{place / LOOSE}: the pictures beside it are packed under this name; rename it")
            for archive in archives:
                shutil.copyfile(archive, folder / archive.name)
            if loose:
                pack(loose, folder / LOOSE)
        except PermissionError as error:
            raise UserError(f"{error.filename}: {error.strerror}; make it readable, or {MEND}") from None
        with contents(folder) as pictures:
            if not any(pictures.values()):
                raise UserError(f"{place}: holds no pictures ({' '.join(sorted(ENDINGS))}); {MEND}")
            self.labelled(pictures)

    def samples(self, folder: Path) -> Iterator[acquire.Sample]:
        with contents(folder) as pictures:
            labelled = self.labelled(pictures)
            for archive, entries in pictures.items():
                for path, opening in entries.items():
                    label, split = told(archive, path)
                    image, flaw = None, "in no class folder" if labelled and label is None else None
                    if flaw is None:
                        try:
                            image = decoded(opening())
                        except Exception:  # a damaged file makes decoders raise anything
                            flaw = "unreadable"
                    name = str(path) if archive.name == LOOSE else f"{stem(archive)}/{path}"
                    yield acquire.Sample(name, archive.name, label if labelled else None, split, image, flaw)

    def labelled(self, pictures: dict[Path, Entries]) -> bool:
        """Whether the folders are classes; raises ``UserError`` if ``labels`` says so and there are none."""
        classes = {told(archive, path)[0] for archive, entries in pictures.items() for path in entries} - {None}
        if self.labels and not classes:
            raise UserError(
                f"{self.source}: `labels` is true in params.yaml, but no picture lies in a class folder; "
                "remove it, or move the pictures into folders named after their class"
            )
        return len(classes) > 1 if self.labels is None else self.labels


def found(place: Path) -> tuple[list[Path], dict[str, Path]]:
    """Archives in ``place`` and loose pictures below it by relative path; raises ``UserError`` if it cannot hold any.

    Links are followed to files inside ``place`` alone.
    """
    if not place.exists():
        raise UserError(f"{place}: no such folder or file; {MEND}")
    if not place.is_dir():
        if not ARCHIVE.fullmatch(place.name):
            raise UserError(f"{place}: neither a folder nor an archive; {MEND}")
        return [place], {}
    root = place.resolve()
    files = [
        Path(folder, name).relative_to(root)
        for folder, _, names in os.walk(root, onerror=refuse)
        for name in names
        if Path(folder, name).is_file() and Path(folder, name).resolve().is_relative_to(root)
    ]
    archives = [root / file for file in files if len(file.parts) == 1 and ARCHIVE.fullmatch(file.name) and shown(file)]
    return archives, {spelled(file.as_posix()): root / file for file in files if is_picture(file)}


def refuse(error: OSError) -> None:
    raise error


def shown(path: PurePath) -> bool:
    """Whether the path is neither hidden nor what macOS adds to archives."""
    return not any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in path.parts)


def is_picture(path: PurePath) -> bool:
    return path.suffix.lower() in ENDINGS and shown(path)


def spelled(name: str) -> str:
    """A file name in Unicode: bytes that are not UTF-8 are written out as ``\\xff``."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def pack(files: dict[str, Path], into: Path) -> None:
    """Write the files into one uncompressed zip whose bytes depend on their names and content alone."""
    with zipfile.ZipFile(into, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.external_attr = 0o644 << 16
            entry.file_size = files[name].stat().st_size
            with archive.open(entry, "w") as target, open(files[name], "rb") as file:
                shutil.copyfileobj(file, target)


@contextmanager
def contents(folder: Path) -> Iterator[dict[Path, Entries]]:
    """The pictures of every archive in ``folder``; raises ``UserError`` if one is damaged."""
    with ExitStack() as stack:
        yield {archive: stack.enter_context(opened(archive)) for archive in sorted(folder.iterdir())}


@contextmanager
def opened(archive: Path) -> Iterator[Entries]:
    """The pictures of one archive; raises ``UserError`` if it is damaged."""
    entries: Entries
    with ExitStack() as stack:
        try:
            if archive.suffix.lower() == ".zip":
                zipped = stack.enter_context(zipfile.ZipFile(archive))
                entries = {
                    PurePosixPath(entry.filename): partial(zipped.open, entry)
                    for entry in zipped.infolist()
                    if not entry.is_dir()
                }
            else:
                file: IO[bytes] = stack.enter_context(open(archive, "rb"))
                if archive.suffix.lower() != ".tar":
                    # Entries are read in another order than they lie in, and gzip can go back only to its beginning.
                    file = stack.enter_context(tempfile.TemporaryFile())
                    with gzip.open(archive) as compressed:
                        shutil.copyfileobj(compressed, file)
                    file.seek(0)
                tarred = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
                entries = {
                    PurePosixPath(spelled(member.name)): partial(tarred.extractfile, member)
                    for member in tarred.getmembers()
                    if member.isreg()
                }
        except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError):
            raise UserError(f"{archive.name}: not a whole archive; replace it, or {MEND}") from None
        yield {path: entries[path] for path in sorted(entries, key=str) if is_picture(path)}


def stem(archive: Path) -> str:
    """The archive's name without its ending."""
    match = ARCHIVE.fullmatch(archive.name)
    return match[1] if match else archive.name


def told(archive: Path, path: PurePosixPath) -> tuple[str | None, str | None]:
    """The class and the split that folders, or the archive's name, tell of a picture; None where they tell nothing."""
    folders = [part for part in path.parent.parts if part not in ("..", "/")]
    classes = [name for name in folders if name.lower() not in SPLITS]
    splits = [SPLITS[name.lower()] for name in (stem(archive), *folders) if name.lower() in SPLITS]
    return (classes[-1] if classes else None), (splits[0] if splits else None)


def decoded(file: IO[bytes] | None) -> np.ndarray:
    """The picture in ``file``, upright, uint8 1×H×W if it is grey, else 3×H×W; raises anything if there is none."""
    if file is None:
        raise ValueError("no file")
    with file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError("too large")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            ImageOps.exif_transpose(picture, in_place=True)
            pixels = np.asarray(plain(picture))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def plain(picture: Image.Image) -> Image.Image:
    """The picture in mode L if it is grey, else RGB, on white where it is transparent; raises ``ValueError``."""
    if picture.mode.startswith("I"):
        levels = np.asarray(picture).astype(np.int64)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError("more than 16 bits")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("numbers of an unknown range")
    grey, palette = picture.mode in ("1", "L", "LA"), picture.mode in ("P", "PA")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    colours = picture.convert("L" if grey else "RGB")
    if palette:  # its mode does not tell
        pixels = np.asarray(colours)
        return colours.convert("L") if (pixels == pixels[..., :1]).all() else colours
    return colours
