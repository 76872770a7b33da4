"""WebDataset shards (Aizman et al. 2019): tar files in which the files of one sample share their name up to a dot.

A picture is ``KEY.jpg`` or of another type; its label is what ``KEY.cls`` holds, else ``label`` in ``KEY.json``, else
``KEY.txt``.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from aigc_tasks import acquire
from aigc_tasks.acquire import PICTURES, Entry, archives, shards
from aigc_tasks.acquire import labels as csv

MEMBER = 1 << 10  # bytes that a listed member takes in memory, about


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
        found = partial(self.listed, work)
        return csv.applied(found, self.labels, self.options) if isinstance(self.labels, str) else found()

    def listed(self, work: Path) -> Iterator[Entry]:
        is_labelled = False if isinstance(self.labels, str) else self.labels

        def read(shard: shards.Shard) -> Iterator[Entry]:
            nonlocal is_labelled
            if is_labelled is None:
                is_labelled = any(told(sample) != (None, None) for sample in samples(shard, self.limit))
            for sample in samples(shard, self.limit):
                yield from pictures(sample, shard, is_labelled)

        return shards.entries(self.source, archives.TARS, self.options, work, read)


Sample = dict[str, Entry]
"""The members of one sample by what stands behind the first dot of their names, in small letters."""


def samples(shard: shards.Shard, largest: int) -> Iterator[Sample]:
    """The samples of one shard, as they lie: their members are neighbours. Raises ``Broken`` if it is damaged.

    One that fills the memory, with more than ``largest`` bytes, is divided.
    """
    is_packed = archives.unpacks(shard.name) is not None
    try:
        sample: Sample = {}
        key, size = "", 0
        for member in archives.of_tar(shard.file, shard.name, largest):
            if archives.offered(f"{shard.name}/{member.id}"):
                belongs, ending = parted(member.id)
                if sample and (belongs != key or ending in sample or size > largest):
                    yield sample
                    sample, size = {}, 0
                key, sample[ending] = belongs, member
                size += held(member) if is_packed else MEMBER
        if sample:
            yield sample
    except PermissionError as error:
        raise shards.Broken(str(error.strerror).lower()) from None
    except tarfile.TarError:
        raise shards.Broken("not a whole archive") from None


def held(member: Entry) -> int:
    """Bytes in memory of a packed tar's member: its content was read while it was listed, and is not copied here."""
    try:
        return MEMBER + (len(member.read()) if member.read else 0)
    except EOFError:
        return MEMBER


def parted(path: str) -> tuple[str, str]:
    """A sample's key and the ending: the path before and behind the first dot of its last part."""
    folder, slash, name = path.rpartition("/")
    key, _, ending = name.partition(".")
    return folder + slash + key, ending.lower()


def is_picture(ending: str) -> bool:
    return ending.rpartition(".")[2] in PICTURES


def pictures(sample: Sample, shard: shards.Shard, is_labelled: bool) -> Iterator[Entry]:
    """The sample's pictures, each with the sample's label; a sample without one of them has a flaw."""
    found = [member for ending, member in sample.items() if is_picture(ending)]
    label, wrong = told(sample) if is_labelled and found else (None, None)
    if not found:
        wrong = "no picture beside it"
    elif is_labelled and label is None:
        wrong = wrong or "no label beside it"
    for member in found or [next(iter(sample.values()))]:
        flaw = member.flaw or wrong
        member = member._replace(label=label, split=shard.split, read=None if flaw else member.read, flaw=flaw)
        yield archives.placed(member, f"{shard.name}/", shard.name)


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
                if isinstance(value, float) and value.is_integer():
                    value = int(value)  # pandas makes doubles of whole numbers once one is missing
                text = str(value) if isinstance(value, str | int) else ""
                text.encode()  # JSON can spell what is no Unicode
        except (ValueError, EOFError, RecursionError):
            return None, f"its label is unreadable (.{ending})"
        if text:
            return text, None
    return None, None
