"""Pictures, and archives of them, in any store that fsspec reaches: a bucket, a folder on a web server, a hub."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from aigc_tasks import acquire
from aigc_tasks.acquire import Entry, archives, downloading, folder, places, remote
from aigc_tasks.errors import UserError


class Source(acquire.Source):
    kind: Literal["store"]
    source: str = Field(
        description="URL of a folder or of one archive: file://, http(s)://, s3://, gs://, hf:// or any other of fsspec"
    )
    # How the store is reached makes no other data set of it, and keys must not be written beside the data.
    options: dict[str, Any] = Field(
        default_factory=dict,
        exclude=True,
        description="for fsspec's file system of this protocol: endpoint_url, anon …; keys belong in the environment",
    )
    labels: bool | str | None = Field(
        None,
        description="true: pictures lie in folders named after their class; a path or URL: of a CSV with a class for "
        "each; without it: by folders, if nearly all lie in two or more",
    )

    def entries(self, work: Path) -> Iterator[Entry]:
        if not places.is_url(self.source):
            raise UserError(f"{self.source}: not a URL; set `source` in params.yaml to one, or `kind` to folder")
        url = self.source.rstrip("/")
        if path := places.local(url):
            return folder.labelled(partial(folder.listed, path, self.limit), self.labels, url, self.options)
        if archives.is_archive(places.name(url)):
            found = [remote.RemoteFile(archives.spelled(places.name(url)), None, None, lambda _: b"", url)]
        else:
            found = [file for file in remote.files(url, self.options) if archives.offered(file.path)]
        if not found:
            raise UserError(f"{places.shown(url)}: holds no pictures; correct `source` in params.yaml")
        return folder.labelled(partial(self.listed, found, work), self.labels, url, self.options)

    def listed(self, found: list[remote.RemoteFile], work: Path) -> Iterator[Entry]:
        """Every file without its label, and the members of archives in their place."""
        prefixes = named([file.path for file in found])
        folders = kept([file.url for file in found if file.path in prefixes], work)
        for file in found:
            if file.path in prefixes:
                archive = downloading.download(file.url, folders[file.url], options=self.options)
                try:
                    place = places.shown(file.url)
                    yield from archives.entries(archive, prefixes[file.path], file.path, self.limit, place)
                except UserError:
                    if len(found) == 1:
                        raise
                    yield folder.flawed(file.path, folder.BROKEN)
            elif archives.is_other(file.path):
                yield folder.flawed(file.path, archives.NOT_READ)
            elif file.size is not None and file.size > self.limit:
                yield folder.flawed(file.path, archives.too_large(self.limit))
            else:
                yield Entry(file.path, None, None, file.stamp, partial(file.read, self.limit), size=file.size)


def named(paths: list[str]) -> dict[str, str]:
    """How the ids of each archive's members begin: with its path, without the ending unless that is another's name."""
    packed = [path for path in paths if archives.is_archive(path)]
    rivals = Counter(map(archives.stem, packed))
    rivals.update({parent.as_posix() for path in paths for parent in PurePosixPath(path).parents})
    return {path: f"{archives.stem(path) if rivals[archives.stem(path)] == 1 else path}/" for path in packed}


def kept(urls: list[str], work: Path) -> dict[str, Path]:
    """A folder for a copy of each archive; the copies of others, which the source no longer has, are removed."""
    folders = {url: work / "archives" / hashlib.sha256(url.encode()).hexdigest()[:16] for url in urls}
    for other in set((work / "archives").glob("*")) - set(folders.values()):
        shutil.rmtree(other)
    return folders
