"""The versions of a data set: when each was taken in, what differs between two, and how to bring one back."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterable
from datetime import datetime
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from aigc_tasks import graph, layout, recipe
from aigc_tasks.acquire import raw
from aigc_tasks.clean.arrays import in_order
from aigc_tasks.errors import UserError
from aigc_tasks.inspection.look import shown

if TYPE_CHECKING:
    from dvc.repo import Repo  # takes a second

SHOWN = 20  # ids of each sort
DIGITS = 12  # of a digest
MINUTE = "%Y-%m-%d %H:%M"
COMMIT = re.compile(r"\0(\S+) (.+)")
ADDED = re.compile(r"\+\s*md5: (\w+\.dir)")


def log(name: str) -> str:
    """The versions as a table, newest first, and how to bring an old one back; raises ``UserError``."""
    recipe.dataset(name)
    folder = layout.raw(name)
    versions, commits = raw.versions(folder), first_commits()
    repo = graph.open_repo()
    hashes = dvc_hashes(repo, name)
    lines = [
        f"{'version':>7}  {'date':17} {'commit':9} {'entries':>11} {'added':>9} {'changed':>9} {'removed':>9}  digest"
    ]
    for version in reversed(versions):
        commit, date = commits.get(hashes.get(version["version"], ""), ("", ""))
        if not commit:
            first = next(path for path in raw.parts(folder) if raw.version_of(path) == version["version"])
            date = f"{datetime.fromtimestamp(first.stat().st_mtime):{MINUTE}}*"
        counts = f"{version['count']:11,} {version['added']:9,} {version['changed']:9,} {version['removed']:9,}"
        lines.append(f"{version['version']:7}  {date:17} {commit or '-':9} {counts}  {version['digest'][:DIGITS]}")
    if any("*" in line for line in lines):
        lines.append("* not committed: when its file was written here; commit dvc.lock and params.yaml to keep it")
    # A clone's cache may lack what the remote has, and checking out would leave nothing in its place.
    dvc = "dvc pull" if repo.config["core"].get("remote") else "dvc checkout"
    dvc += f" acquire@{name} clean@{name}"  # other stages may never have run, which DVC would take for an error
    return "\n".join(
        [
            *lines,
            "",
            f"what changed   aigc data diff {name} A [B]",
            f"bring one back git checkout COMMIT -- dvc.lock {layout.PARAMS} && {dvc}",
            f"and go forward git checkout HEAD -- dvc.lock {layout.PARAMS} && {dvc}",
        ]
    )


def first_commits() -> dict[str, tuple[str, str]]:
    """For each hash of a folder in the history of ``dvc.lock`` the first commit with it: its short name and date."""
    command = ["git", "log", "--reverse", "-p", "-U0", "--no-color", "--no-ext-diff", "--format=%x00%h %cd"]
    form = f"--date=format-local:{MINUTE}"
    try:
        done = subprocess.run([*command, form, "--", "dvc.lock"], capture_output=True, text=True, errors="replace")
    except FileNotFoundError:  # no git: no history
        return {}
    found: dict[str, tuple[str, str]] = {}
    commit, date = "", ""
    for line in done.stdout.splitlines():
        if match := COMMIT.match(line):
            commit, date = match.groups()
        elif match := ADDED.match(line):
            found.setdefault(match[1], (commit, date))
    return found


def dvc_hashes(repo: Repo, name: str) -> dict[int, str]:
    """DVC's hash of the raw folder at each version, which is what ``dvc.lock`` recorded then.

    It is a hash of the files' hashes, and an older version is the same files without the later ones: so DVC's listing
    of the folder now is enough, where the listings of old versions may not be in this clone's cache.
    """
    from dvc_data.hashfile.tree import Tree

    output = repo.stage.collect(f"acquire@{name}")[0].outs[0]
    listing = output.get_obj()
    if listing is None:
        return {}
    parts = [file for file in listing.as_list() if fnmatch(file["relpath"], raw.PARTS)]
    described, hashes = raw.described(layout.raw(name)), {}
    for place, version in enumerate(described["versions"], 1):
        text = (
            json.dumps({**described, "versions": described["versions"][:place]}, indent=2) + "\n"
        )  # as intake wrote it
        source = {"relpath": raw.SOURCE, "md5": hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}
        own = [file for file in parts if int(file["relpath"].split("-")[0]) <= version["version"]]
        tree = Tree.from_list([*own, source])
        tree.digest()
        hashes[version["version"]] = tree.hash_info.value
    return hashes


def diff(name: str, first: int, second: int | None = None) -> str:
    """What differs between two versions, without ``second`` to the newest one; raises ``UserError``."""
    recipe.dataset(name)
    folder = layout.raw(name)
    second = raw.versions(folder)[-1]["version"] if second is None else second
    before, after = (raw.live(folder, version) for version in (first, second))
    changes = raw.changes(before, after)
    some = changes["changed"][:SHOWN]
    was, now = (facts(table, some) for table in (before, after))
    lines = [f"{name}: version {first} ({len(before):,} entries) to {second} ({len(after):,})"]
    for word in ("added", "removed"):
        lines += listed(word, len(changes[word]), map(shown, changes[word][:SHOWN]))
    lines += listed("changed", len(changes["changed"]), (f"{shown(id)}: {differing(was, now, id)}" for id in some))
    return "\n".join(lines + per_class(before["label"].to_pandas(), after["label"].to_pandas()))


def listed(word: str, count: int, first: Iterable[str]) -> list[str]:
    """How many, and the first of them."""
    return [f"{word} {count:,}", *(f"  {line}" for line in first), *(["  …"] if count > SHOWN else [])]


def facts(table: pa.Table, ids: list[str]) -> pd.DataFrame:
    """What some entries are, by id."""
    some = table.filter(pc.is_in(table["id"], value_set=pa.array(ids, pa.string())))
    return some.select(["id", *raw.FACTS]).to_pandas().set_index("id").fillna("")


def differing(before: pd.DataFrame, after: pd.DataFrame, id: str) -> str:
    """What differs in one entry."""
    was, now = ({fact: str(table.at[id, fact]) for fact in raw.FACTS} for table in (before, after))
    other = [fact for fact in raw.FACTS if was[fact] != now[fact]]
    told = [f"{fact} {shown(was[fact]) or 'none'} → {shown(now[fact]) or 'none'}" for fact in other if fact != "sha256"]
    return ", ".join((["content"] if "sha256" in other else []) + told)


def per_class(before: pd.Series, after: pd.Series) -> list[str]:
    """The classes of which there are more or fewer entries than before."""
    old, new = before.value_counts().to_dict(), after.value_counts().to_dict()
    labels = in_order({str(label) for label in {*old, *new} if old.get(label) != new.get(label)})
    table = [f"  {shown(label)}  {old.get(label, 0):,} → {new.get(label, 0):,}" for label in labels]
    return [f"classes of another size {len(labels):,}", *table] if labels else []


def update(name: str, line: Callable[[str], None]) -> str:
    """Acquire and clean again through DVC; ``line`` gets the output. Returns the new counts. Raises ``UserError``."""
    recipe.dataset(name)
    try:
        graph.run([f"acquire@{name}"], line, force=True)
        graph.run([f"clean@{name}"], line)
    except graph.StageFailed as error:
        raise UserError(str(error)) from None
    newest = raw.versions(layout.raw(name))[-1]
    report = json.loads((layout.clean(name) / "report.json").read_text())
    splits = ", ".join(f"{split} {count:,}" for split, count in report["splits"].items())
    lines = [f"version {newest['version']} of {name}: {newest['count']:,} entries, {report['kept']:,} kept: {splits}"]
    if newest["version"] > 1:
        lines.append(f"what changed: aigc data diff {name} {newest['version'] - 1}; all versions: aigc data log {name}")
    return "\n".join(lines)
