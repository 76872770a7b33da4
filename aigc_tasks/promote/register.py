"""From an evaluated recipe to a version of its product: model, post-processing, figures, grid, card and provenance."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_tasks import graph, layout, lockfile, tracking, worktree
from aigc_tasks.card import REFERENCE, SETTINGS, read_card
from aigc_tasks.clean import arrays
from aigc_tasks.errors import UserError
from aigc_tasks.promote import modelcard, served
from aigc_tasks.promote.registry import Product
from aigc_tasks.recipe import Recipe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CARD = "model-card.md"
REGISTERED = "registered_model_meta"
DESCRIBED = 5000  # characters of a version's description
PROVENANCE = "provenance.json"
SHOWN = ("fid_ratio", "fid", "precision", "recall", "coverage", "class_accuracy", "memorised")  # as tags of a version
FILES = "aigc.files"  # the tag that proves the files
LASTING = (  # tags of every version, which commands read
    "aigc.recipe", tracking.IDENTITY, tracking.FINGERPRINT, "data.name", "data.digest",
    "quality.fid_ratio", "quality.recall",
)  # fmt: skip


def registered(product: Product, settings: Recipe, stages: Mapping[str, Any]) -> ModelVersion | None:
    """The version that is what the recipe has made now, if there is one."""
    wanted = {tracking.IDENTITY: identity_of(stages), "aigc.recipe": settings.name}
    return product.tagged(wanted)


def register(product: Product, settings: Recipe) -> ModelVersion:
    """The version of what the recipe is now, made unless there is one; raises ``UserError`` if it is not up to date.

    To be called while the product is being changed (``Product.changing``).
    """
    client, stages = product.client, recorded(settings)
    version = registered(product, settings, stages)
    if version is not None:
        return version
    card = read_card(layout.model(settings.name))
    run_id = run_of(client, settings, card.fingerprint)
    source = {
        **revision(),
        "run": run_id,
        "fingerprint": card.fingerprint,
        "recipe": settings.name,
        "dataset": settings.dataset.name,
        "digest": arrays.digest(layout.clean(settings.dataset.name)),
        "stages": stages,
    }
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, served.PRODUCT)
        assemble(whole, settings, source)
        label, identity = (card.classes or ["-"])[0], f"{product.name} {identity_of(stages)}"
        model = tracking.log_model(client, run_id, whole, label, "product", identity)
    with tempfile.TemporaryDirectory() as scratch:  # an attempt before this one may have logged it, at another commit
        served.fetch(model, Path(scratch))
        tags = tags_of(Path(scratch))
        description = (Path(scratch, "artifacts", served.PRODUCT, CARD)).read_text()
    layout.replace(layout.model_card(settings.name), description)
    return client.create_model_version(
        product.name, f"models:/{model}", run_id, tags, description=description[:DESCRIBED], model_id=model
    )


def run_of(client: MlflowClient, settings: Recipe, fingerprint: str) -> str:
    """MLflow's run of the training; raises ``UserError`` if this store has none."""
    run_id = tracking.find_run(client, fingerprint)
    if run_id is None:
        raise UserError(
            f"MLflow's store has no run of {settings.name} (fingerprint {fingerprint[:12]}): it was trained "
            f"beside another; name that by MLFLOW_TRACKING_URI, or train here: dvc repro --force train@{settings.name}"
        )
    return run_id


def tags_of(root: Path) -> dict[str, str]:
    """What the registry says of a logged model, all of it read from its files."""
    folder = root / "artifacts" / served.PRODUCT
    source, figures = (json.loads((folder / name).read_text()) for name in (PROVENANCE, "quality.json"))
    (root / REGISTERED).unlink(missing_ok=True)  # MLflow adds it when it registers
    return {
        "aigc.recipe": source["recipe"],
        tracking.IDENTITY: identity_of(source["stages"]),
        tracking.FINGERPRINT: source["fingerprint"],
        FILES: graph.digest(root),
        "data.name": source["dataset"],
        "data.digest": source["digest"],
        "git.commit": source["commit"] or "none",
        "git.dirty": str(bool(source["changed"])).lower(),
        **{f"dvc.{path}": digest for path, digest in outputs(source["stages"]).items() if path.startswith("data/")},
        **{f"quality.{name}": f"{figures[name]:.4g}" for name in SHOWN if name in figures},
    }


def mended(version: ModelVersion) -> ModelVersion:
    """The version with the tags that commands read: where somebody has deleted one in MLflow, tags are put back.

    They come from its files; but not the hash of these, which would prove nothing then. Raises ``UserError`` if the
    store has not all files.
    """
    if all(tag in version.tags for tag in LASTING):
        return version
    client, number = tracking.open_client(), str(version.version)
    if not (served.folder(version) / PROVENANCE).is_file():
        raise UserError(
            f"{version.name} version {number}: tags of it were deleted, and {PROVENANCE}, which tells them, is missing "
            "in the store; put that back, or delete the version and its model in MLflow"
        )
    with tempfile.TemporaryDirectory() as scratch:
        served.fetch(served.logged(version), Path(scratch))
        for key, value in tags_of(Path(scratch)).items():
            if key not in version.tags and key != FILES:
                client.set_model_version_tag(version.name, number, key, value)
    return client.get_model_version(version.name, number)


def recorded(settings: Recipe) -> dict[str, Any]:
    """What ``dvc.lock`` says of the recipe's stages; raises ``UserError`` if they are not up to date."""
    stale = graph.stale(targets_of(settings))
    if stale:
        target, why = next(iter(stale.items()))
        raise UserError(f"{settings.name} is not up to date ({target}: {why}); first: aigc run {settings.name}")
    return locked(settings)


def locked(settings: Recipe) -> dict[str, Any]:
    """The same without asking DVC whether it still holds: of a recipe that is known to be up to date."""
    stages = lockfile.stages()
    return {target: stages[target] for target in targets_of(settings)}


def targets_of(settings: Recipe) -> list[str]:
    return graph.targets(settings.name, settings.dataset.name)


def outputs(stages: Mapping[str, Any]) -> dict[str, str]:
    """DVC's hash of every output."""
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def identity_of(stages: Mapping[str, Any]) -> str:
    """A hash of what was made, whoever made it: a version is the same if data, weights, samples and figures are."""
    made = {path: digest for path, digest in outputs(stages).items() if not path.endswith(".html")}
    sampling = {name: stage["params"] for name, stage in stages.items() if name.startswith("postprocess@")}
    return hashlib.sha256(json.dumps([made, sampling], sort_keys=True).encode()).hexdigest()


def revision() -> dict[str, Any]:
    """The commit, and which of the files that a training needs differ from it; nothing outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout

    try:
        status = git("status", "--porcelain", "--untracked-files=all", "--", *worktree.MADE_WITH)
        changed = [line[3:] for line in status.splitlines()]
        return {"commit": git("rev-parse", "HEAD").strip(), "changed": changed}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "changed": []}


def assemble(whole: Path, settings: Recipe, source: Mapping[str, Any]) -> None:
    """Everything that a version is, in one folder."""
    whole.mkdir()
    report = layout.report(settings.name)
    for file in ("model.safetensors", "model.json"):
        shutil.copyfile(layout.model(settings.name) / file, whole / file)
    for file in ("quality.json", "grid.png", "curves.csv"):
        shutil.copyfile(report / file, whole / file)
    (whole / SETTINGS).write_text(settings.postprocess.model_dump_json(indent=2) + "\n")
    (whole / PROVENANCE).write_text(json.dumps(source, indent=2) + "\n")
    if settings.postprocess.rejects:
        keep_reference(whole / REFERENCE, settings)
    (whole / CARD).write_text(modelcard.written(settings, source))


def keep_reference(folder: Path, settings: Recipe) -> None:
    """What samples are chosen by: the real images that they are compared with, and the judge."""
    data = arrays.load(layout.clean(settings.dataset.name))
    shutil.copytree(layout.features(settings.dataset.name), folder / "judge")
    for split in ("train", "val"):
        np.save(folder / f"{split}.npy", getattr(data, split).images)
