"""The proof: is a registered version what its record says, from the raw data to the figures?

Code and data are taken at the recorded revision into a worktree of git beside this checkout, which is not touched.
Every hash is computed from the bytes, as DVC takes those that it has seen before for granted, and every stage that can
be repeated is: cleaning, sampling, measuring, and if asked for the judge and the training.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from aigc_tasks import graph, layout, lifeline, lockfile, tracking, worktree
from aigc_tasks.errors import UserError
from aigc_tasks.promote import registry, served
from aigc_tasks.promote.register import CARD, DESCRIBED, FILES, PROVENANCE, outputs, tags_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

HOLDS, BROKEN, UNKNOWN, UNASKED = "holds", "does not hold", "cannot be checked", "was not asked for"
NOWHERE = "neither DVC's cache nor a remote has it"
CODES = {BROKEN: 1, UNKNOWN: 2}


@dataclass(frozen=True)
class Link:
    """One link of the chain."""

    name: str
    state: str
    why: str

    def __str__(self) -> str:
        return f"{self.name:10}  {self.state:17}  {self.why}"


def verify(address: str, retrain: bool, say: Callable[[str], None]) -> int:
    """Say of every link whether it holds: 0 if all do, 1 if one does not, 2 if one cannot be checked.

    Raises ``UserError`` if there is no such version.
    """
    product, version = registry.find(address)
    say(f"{product.name} version {version.version}, {version.tags.get('aigc.recipe', 'of no known recipe')}")
    states = []
    for link in links(product, version, registry.named(address)[1], retrain):
        say(str(link))
        states.append(link.state)
    code = min((CODES[state] for state in states if state in CODES), default=0)
    say({0: "the chain holds", 1: "THE CHAIN DOES NOT HOLD", 2: "what could be checked holds"}[code])
    return code


def links(product: registry.Product, version: ModelVersion, which: str, retrain: bool) -> Iterator[Link]:
    """The chain from its end: registry, files, run; then code, data, cleaning, judge, training, samples, figures."""
    if which in registry.ALIASES:
        wanted, named = getattr(product.live(), which), product.model().aliases.get(which)
        same = named is not None and wanted == int(named)
        other = "" if same else f", the alias is {named or 'missing'}"
        yield Link("alias", HOLDS if same else BROKEN, f"the ledger makes version {wanted} the {which}{other}")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        try:
            served.fetch(served.logged(version), root)  # anew: what was fetched before proves nothing of the store
        except UserError as error:
            yield Link("version", UNKNOWN, str(error))
            return
        folder = root / "artifacts" / served.PRODUCT
        if gone := served.missing(folder):
            yield Link("version", BROKEN, f"its files are not whole: {', '.join(gone)} missing")
            return
        try:
            yield files(version, root)
            source = json.loads((folder / PROVENANCE).read_text())
            yield run(version, source)
        except (OSError, ValueError, KeyError) as error:
            yield Link("version", BROKEN, f"its files are not whole: {error}")
            return
        if source["commit"] is None:
            yield Link("code", UNKNOWN, "it was made outside git; nobody knows from which code")
            return
        try:
            with worktree.temporary(source["commit"]) as place:
                yield from repeated(Place(place, folder, source), retrain)
        except UserError as error:
            yield Link("code", UNKNOWN, str(error))


def files(version: ModelVersion, root: Path) -> Link:
    """The files in the store, the code that serves them among them, against the registry's tags and description."""
    claims = tags_of(root)
    wrong = [name for name, found in claims.items() if version.tags.get(name) != found]
    card = (root / "artifacts" / served.PRODUCT / CARD).read_text()
    if card[:DESCRIBED] != version.description:
        wrong.append("the model card")
    if wrong:
        return Link("version", BROKEN, f"not what was registered: {', '.join(wrong)}")
    return Link("version", HOLDS, f"all files and tags as registered, hash {claims[FILES][:12]}")


def run(version: ModelVersion, source: Mapping[str, Any]) -> Link:
    """MLflow's run of the training."""
    from mlflow.exceptions import MlflowException

    try:
        tags = tracking.open_client().get_run(str(version.run_id)).data.tags
    except MlflowException:
        return Link("run", UNKNOWN, f"the run {version.run_id} is not in this store")
    known = {tags.get(tracking.FINGERPRINT), source["fingerprint"], version.tags.get(tracking.FINGERPRINT)}
    if len(known) > 1 or source["run"] != version.run_id:
        return Link("run", BROKEN, f"run {version.run_id} is of another training than the version says")
    return Link("run", HOLDS, f"{version.run_id}, fingerprint {source['fingerprint'][:12]}")


@dataclass(frozen=True)
class Place:
    """The worktree, and what is to be repeated in it."""

    path: Path
    folder: Path
    source: Mapping[str, Any]

    @property
    def recipe(self) -> str:
        return str(self.source["recipe"])

    @property
    def dataset(self) -> str:
        return str(self.source["dataset"])

    @property
    def stages(self) -> Mapping[str, Any]:
        stages: Mapping[str, Any] = self.source["stages"]
        return stages

    def fetch(self, path: Path) -> str | None:
        """Bring an output here from DVC's cache or remote; returns what is wrong with it, None if nothing is.

        What was made here stays only where nothing was kept.
        """
        here = self.path / path
        aside = here.with_name(f".{here.name}.made")
        if here.exists():
            here.rename(aside)
        found = any(self.dvc(command, str(path)).returncode == 0 and here.exists() for command in ("checkout", "pull"))
        if not found:
            shutil.rmtree(here, ignore_errors=True)
            if aside.exists():
                aside.rename(here)
            return NOWHERE
        shutil.rmtree(aside, ignore_errors=True)
        return None if self.is_recorded(path) else "its bytes in DVC's cache have another hash than was recorded"

    def dvc(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dvc", *command], cwd=self.path, env=self.env(), capture_output=True, text=True
        )

    def run(self, stage: str, name: str) -> str | None:
        """A stage's own command, with the code of the recorded revision; returns its error."""
        child = lifeline.spawn(f"aigc_tasks.{stage}", name, env=self.env(), output=lifeline.PIPE, cwd=self.path)
        try:
            assert child.stdout is not None
            said = child.stdout.read().strip().splitlines()  # not communicate: the child ends when its input does
            child.wait()
        except BaseException:
            lifeline.stop(child)
            raise
        return (said or ["no word"])[-1] if child.returncode else None

    def env(self) -> dict[str, str]:
        """Without what would lead out of the worktree."""
        gone = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PYTHONPATH", "DVC_STAGE", "DVC_ROOT", tracking.FLOW_RUN)
        return {key: value for key, value in os.environ.items() if key not in gone}

    def is_recorded(self, path: Path) -> bool:
        """Whether an output is what was recorded, bit for bit."""
        return graph.digest(self.path / path) == outputs(self.stages)[str(path)]


def repeated(place: Place, retrain: bool) -> Iterator[Link]:
    """Code, data and every stage, each from what the one before is recorded to have made."""
    trouble = other_code(place)
    if trouble:
        changed = place.source["changed"]
        state = UNKNOWN if changed else BROKEN
        yield Link("code", state, f"{trouble}{'; it was made from changes that were not committed' if changed else ''}")
        return
    yield Link("code", HOLDS, f"commit {place.source['commit'][:12]} has the files and parameters it was made with")
    prepare(place)
    raw, clean, features = (kind(place.dataset) for kind in (layout.raw, layout.clean, layout.features))
    model, samples = layout.model(place.recipe), layout.samples(place.recipe)
    yield step(place, "data", raw)
    yield step(place, "cleaning", clean, ("clean", place.dataset))
    yield step(place, "judge", features, ("features", place.dataset) if retrain else None)
    yield (training := step(place, "training", model, ("train", place.recipe) if retrain else None))
    if not (place.path / model).exists():
        return
    if training.state == HOLDS and not retrain:
        yield Link("retraining", UNASKED, "--retrain trains judge and model again and compares the bytes")
    yield same_weights(place, model)
    yield step(place, "samples", samples, ("postprocess", place.recipe))
    yield figures(place)


def other_code(place: Place) -> str:
    """Which file or parameter of the commit is not what a stage is recorded to have read; empty if none."""
    params = YAML(typ="safe").load((place.path / layout.PARAMS).read_text())
    for name, stage in place.stages.items():
        for dependency in stage.get("deps", []):
            path = place.path / dependency["path"]
            if dependency["path"].startswith("data/"):
                continue
            if not path.exists() or graph.digest(path) != dependency["md5"]:
                return f"{dependency['path']} is not the one that {name} ran with"
        for key, value in stage.get("params", {}).get(str(layout.PARAMS), {}).items():
            found = params
            for part in key.split("."):
                found = (found or {}).get(part)
            if found != value:
                return f"params.yaml: {key} is not the one that {name} ran with"
    return ""


def prepare(place: Place) -> None:
    """Let DVC in the worktree know what was recorded, and where the bytes may lie."""
    lockfile.write(place.stages, place.path / lockfile.LOCK)
    worktree.share_cache(place.path, type="copy")  # what is repeated here must not write into the cache


def step(place: Place, name: str, path: Path, stage: tuple[str, str] | None = None) -> Link:
    """An output of the chain: made again if its stage is named, and then as it is kept, which the next starts from."""
    expected = f"{path}, hash {outputs(place.stages)[str(path)][:12]}"
    error = place.run(*stage) if stage else None
    other = stage is not None and error is None and not place.is_recorded(path)
    kept = place.fetch(path)
    if other:
        return Link(name, BROKEN, f"{expected}: made again it has other bytes")
    if kept not in (None, NOWHERE):
        return Link(name, BROKEN, f"{expected}: {kept}")
    if error is not None:
        return Link(name, UNKNOWN, f"{expected}: could not be made again: {error}")
    if kept == NOWHERE and stage is None:
        return Link(name, UNKNOWN, f"{expected}: {kept}")
    return Link(name, HOLDS, f"{expected}: {'made again, ' if stage else ''}the same bytes")


def same_weights(place: Place, model: Path) -> Link:
    """The registered model against that of the training; what follows is made from the registered one."""
    wrong = []
    for name in ("model.safetensors", "model.json"):
        trained, registered = place.path / model / name, place.folder / name
        if trained.read_bytes() != registered.read_bytes():
            wrong.append(name)
        shutil.copyfile(registered, trained)
    if wrong:
        return Link("weights", BROKEN, f"{' and '.join(wrong)} registered, and trained, are not the same")
    return Link("weights", HOLDS, "those registered are those trained")


def figures(place: Place) -> Link:
    """The evaluation repeated from the registered weights' samples. Its report shows the curves of the training."""
    report = place.path / layout.report(place.recipe)
    report.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(place.folder / "curves.csv", report / "curves.csv")
    error = place.run("evaluate", place.recipe)
    if error is not None:
        return Link("figures", UNKNOWN, f"they could not be measured again: {error}")
    now = (report / "quality.json").read_bytes()
    before = (place.folder / "quality.json").read_bytes()
    if now == before:
        return Link("figures", HOLDS, f"measured again: FID {json.loads(now)['fid_ratio']:.2f} × real against real")
    then, found = json.loads(before), json.loads(now)
    name = next((name for name in then if found.get(name) != then[name]), "something")
    return Link("figures", BROKEN, f"{name} is {found.get(name)}, registered is {then.get(name)}")
