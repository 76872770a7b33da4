"""MNIST (LeCun et al. 1998): 60,000 + 10,000 grey 28×28 digits, in the four idx files as they were published."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from aigc_tasks import acquire
from aigc_tasks.errors import UserError
from aigc_tasks.progress import progress

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")  # torchvision's
FILES = {  # name: md5
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
PAUSES = (1, 4)  # seconds before the second and the third try at all mirrors
SILENCE = 30  # seconds without a byte after which a mirror is given up


class Source(acquire.Source):
    kind: Literal["mnist"]
    source: str | None = Field(None, description="folder or URL that holds the four files; without it, the mirrors")

    def fetch(self, folder: Path) -> None:
        for name, md5 in FILES.items():
            if self.source is not None and "://" not in self.source:
                copy(Path(self.source).expanduser(), name, folder)
            else:
                download([self.source.rstrip("/") + "/"] if self.source else list(MIRRORS), name, folder)
            actual = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
            if actual != md5:
                raise UserError(
                    f"{self.source or 'mirrors'}: {name}: md5 is {actual}, MNIST's is {md5}; "
                    "the file is damaged or another one: replace it by the original"
                )

    def samples(self, folder: Path) -> Iterator[acquire.Sample]:
        for prefix, split in (("train", "train"), ("t10k", "test")):
            source = f"{prefix}-images-idx3-ubyte.gz"
            images = read_idx(folder / source)
            labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield acquire.Sample(f"{prefix}/{number:05d}", source, str(label), split, image[None])


def copy(folder: Path, name: str, into: Path) -> None:
    """Copy one of the files; raises ``UserError`` where folder or file is missing."""
    mend = "set `source` in params.yaml to the folder that holds MNIST's four .gz files, or remove it to download them"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {mend}")
    if not (folder / name).is_file():
        raise UserError(f"{folder / name}: no such file; {mend}")
    shutil.copyfile(folder / name, into / name)


def download(places: list[str], name: str, into: Path) -> None:
    """Fetch ``name`` from the first of ``places`` that gives it; three rounds, then ``UserError``."""
    trouble = ""
    for pause in (*PAUSES, None):
        for place in places:
            try:
                request = urllib.request.urlopen(place + name, timeout=SILENCE)  # noqa: S310 (the user names the URL)
                with request as answer, open(into / name, "wb") as file:
                    length = int(answer.headers.get("Content-Length") or 0)
                    with progress(f"download {name}", length) as update:
                        while block := answer.read(1 << 16):
                            file.write(block)
                            update(file.tell(), "bytes")
                if length and (into / name).stat().st_size != length:
                    raise urllib.error.ContentTooShortError("the connection broke off", b"")  # type: ignore[arg-type]
                return
            except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
                trouble = f"{place}{name}: {getattr(error, 'reason', error)}"
        if pause is not None:
            print(f"{trouble}; trying again in {pause} s", flush=True)
            time.sleep(pause)
    raise UserError(f"{trouble}; check the network, or set `source` in params.yaml to a folder with MNIST's files")


def read_idx(path: Path) -> np.ndarray:
    """The array in a gzipped idx file of unsigned bytes; raises ``UserError`` if it is not one."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{path}: not a whole gzip file; acquire it again: `dvc repro -f acquire@mnist`") from None
    dimensions = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, ">i4", dimensions, offset=4) if len(content) >= 4 + 4 * dimensions else np.zeros(0)
    if content[:3] != b"\x00\x00\x08" or len(content) != 4 + 4 * dimensions + int(np.prod(shape.astype(np.int64))):
        raise UserError(f"{path}: not an idx file of bytes; acquire it again: `dvc repro -f acquire@mnist`")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
