"""WebDataset shards (Aizman et al. 2019): tar files in which the files of one sample share their name up to a dot.

A picture is ``KEY.jpg`` or of another type; its label is what ``KEY.cls`` holds, else ``label`` in ``KEY.json``, else
``KEY.txt``.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from aigc_tasks import acquire
from aigc_tasks.acquire import Entry, archives, shards
from aigc_tasks.acquire import labels as csv
from aigc_tasks.errors import UserError

PICTURES = {"jpg", "jpeg", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pnm"}
ENDINGS = (".tar", ".tar.gz", ".tgz")


class Source(acquire.Source):
    kind: Literal["webdataset"]
    source: str = Field(description="a shard, a folder of them, or a URL of either; {0000..0012} stands for many")
    labels: bool | str | None = Field(
        None,
        description="false: none; a path or URL: of a CSV with a class for each picture; true: those in the shards; "
        "without it: those in the shards if the first shard has any",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, exclude=True, description="for fsspec, where `source` is a URL: endpoint_url, anon, …"
    )

    def entries(self, work: Path) -> Iterator[Entry]:
        found = self.listed(work)
        return csv.applied(found, self.labels, self.options) if isinstance(self.labels, str) else found

    def listed(self, work: Path) -> Iterator[Entry]:
        is_labelled = None if isinstance(self.labels, str) else self.labels
        for shard in shards.brought(self.source, ENDINGS, self.options, work):
            if is_labelled is None:
                is_labelled = self.labels is None and any(told(sample) != (None, None) for sample in samples(shard))
            for sample in samples(shard):
                yield entry(sample, shard, is_labelled)


Sample = dict[str, Entry]
"""The members of one sample by what stands behind the first dot of their names, in small letters."""


def samples(shard: shards.Shard) -> Iterator[Sample]:
    """The samples of one shard, as they lie: their members are neighbours. Raises ``UserError`` if it is damaged."""
    try:
        sample: Sample = {}
        key = ""
        for member in archives.of_tar(shard.file, is_packed=not shard.name.lower().endswith(".tar")):
            if archives.offered(f"{shard.name}/{member.id}"):
                belongs, ending = parted(member.id)
                if sample and (belongs != key or ending in sample):
                    yield sample
                    sample = {}
                key, sample[ending] = belongs, member
        if sample:
            yield sample
    except PermissionError:
        raise UserError(f"{shard.file}: permission denied; make it readable, or move it out of the source") from None
    except tarfile.TarError:
        raise UserError(f"{shard.file}: not a whole archive; replace it, or move it out of the source") from None


def parted(path: str) -> tuple[str, str]:
    """A sample's key and the ending: the path before and behind the first dot of its last part."""
    folder, slash, name = path.rpartition("/")
    key, _, ending = name.partition(".")
    return folder + slash + key, ending.lower()


def entry(sample: Sample, shard: shards.Shard, is_labelled: bool) -> Entry:
    """The sample's picture with its label; a sample without one of them has a flaw."""
    pictures = [ending for ending in sample if ending.rpartition(".")[2] in PICTURES]
    member = (
        sample[min(pictures, key=lambda ending: (ending.count("."), ending))]
        if pictures
        else next(iter(sample.values()))
    )
    label, flaw = told(sample) if is_labelled and pictures else (None, None)
    flaw = member.flaw or flaw
    if flaw is None and not pictures:
        flaw = "no picture beside it"
    if flaw is None and is_labelled and label is None:
        flaw = "no label beside it"
    member = member._replace(label=label, split=shard.split, read=None if flaw else member.read, flaw=flaw)
    return archives.placed(member, f"{shard.name}/", shard.name)


def told(sample: Sample) -> tuple[str | None, str | None]:
    """The label that lies beside a picture, or what is wrong with it; None and None if there is none."""
    for ending in ("cls", "json", "txt"):
        member = sample.get(ending)
        if member is None:
            continue
        if member.read is None:
            return None, f"its label is {member.flaw}"
        try:
            text = bytes(member.read()).decode("utf-8-sig").strip()
            if ending == "json":
                content = json.loads(text)
                value = content.get("label") if isinstance(content, dict) else None
                text = str(value) if isinstance(value, str | int) else ""
        except (ValueError, EOFError, RecursionError):
            return None, f"its label is unreadable (.{ending})"
        if text:
            return text, None
    return None, None
