"""The train stage: data in, model out, one MLflow run."""

from __future__ import annotations

import csv
import io
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from mlflow import MlflowClient
from torch import nn

from aigc_tasks import compute, edits, graph, layout, model, tracking
from aigc_tasks.card import Card, proportional
from aigc_tasks.clean import arrays
from aigc_tasks.errors import UserError, naming
from aigc_tasks.modalities import image
from aigc_tasks.progress import progress, say
from aigc_tasks.recipe import Recipe, as_dict, recipe
from aigc_tasks.tracking import Curves
from aigc_tasks.train import loop

INITIAL = 0  # what a seed is for: the first weights
FAILURE = "aigc.failure"  # tag of a run: why it failed
GRID = 10  # samples per class in the pictures of training
LOOKED_AT = 250  # samples of every look, for the quality over training; the picture shows some of them
ALIKE = 0.05  # of the variety of real images: samples with less are one picture
UNDERWAY = 0.1  # of the steps: before, samples may be alike because nothing is learned yet


class Looker:
    """Passes what the loop shows on to the MLflow run, and keeps the samples it saw for the evaluation."""

    def __init__(self, curves: Curves, settings: Recipe, card: Card, work: Path, real: np.ndarray) -> None:
        self.curves, self.settings, self.card, self.work = curves, settings, card, work
        self.labels, self.shown = looks(card)
        self.least = ALIKE * variety(real[:LOOKED_AT])

    def point(self, step: int, curves: dict[str, float]) -> None:
        self.curves.point(step, curves)

    def picture(self, step: int, network: nn.Module) -> None:
        given = (self.settings.family, network, self.card.shape, self.labels)
        try:
            samples = model.sample(*given, seed=0, levels=self.card.levels)
        except UserError as error:
            raise UserError(f"step {step}: {error}") from None
        self.curves.picture(step, image.grid(samples[self.shown], GRID))
        content = io.BytesIO()
        np.save(content, samples[:LOOKED_AT])
        layout.replace(self.work / f"snapshot-{step:08d}.npy", content.getvalue())
        if step >= UNDERWAY * self.settings.train.steps and variety(samples) < self.least:
            say(f"step {step}: all samples look alike; if they stay so, stop and lower `learning_rate` in params.yaml")

    def saving(self, step: int) -> None:
        self.curves.flush()

    def write_snapshots(self, folder: Path) -> None:
        """``snapshots.npz``: by step, the ``LOOKED_AT`` samples uint8 N×C×H×W that the average drew then."""
        files = sorted(self.work.glob("snapshot-*.npy"))
        np.savez_compressed(folder / "snapshots.npz", **{file.stem.split("-")[1]: np.load(file) for file in files})


def train(name: str) -> None:
    """The stage: ``data/clean/DATASET`` to ``data/models/NAME``, resuming an unfinished attempt at the same inputs."""
    check = edits.watch("train", name)
    settings = recipe(name)
    knobs = settings.train
    device = compute.prepare(knobs)
    data = arrays.load(layout.clean(settings.dataset.name))
    inputs = graph.inputs(f"train@{name}")
    work = layout.LOCAL / "checkpoints" / name / inputs.fingerprint[:16]
    work.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(compute.seeded(knobs.seed, INITIAL))
    card = card_of(settings, data, inputs.fingerprint)
    where = f"{layout.PARAMS}: recipes.{name}."
    training = begun(settings, card, device, where)
    path = work / "checkpoint.safetensors"
    loop.resume(training, path)

    client = tracking.open_client()
    run_id = open_run(client, settings, inputs, work, data)
    curves = Curves(client, run_id)
    try:
        with tracking.system_metrics(run_id):
            watcher = Looker(curves, settings, card, work, data.train.images)
            go_on(training, settings, data.train, path, watcher, f"train {name}", where)
            curves.flush()
        with layout.written_whole(layout.model(name)) as folder:
            model.save_model(folder, card, training.ema)
            watcher.write_snapshots(folder)
            shutil.copyfile(layout.clean(settings.dataset.name) / "profile.npz", folder / "profile.npz")
        write_curves(layout.report(name) / "curves.csv", training.history)
        if (page := layout.data_report(settings.dataset.name)).exists():
            client.log_artifact(run_id, str(page), "data")
        tracking.log_model(client, run_id, layout.model(name), (card.classes or ["-"])[0], "model", inputs.fingerprint)
        check()  # before the checkpoint is gone: with the old put back it is taken up, and the run with it
    except BaseException as error:
        broken_off(client, run_id, curves, error)
        raise
    client.set_terminated(run_id, "FINISHED")
    shutil.rmtree(work)


def begun(settings: Recipe, card: Card, device: torch.device, where: str) -> loop.Training:
    """The training before its first step; raises ``UserError`` if networks do not suit the images or the machine.

    ``where`` the knobs stand is put before what is wrong with one.
    """
    with (
        naming(where),
        compute.within_memory("model: networks as large as these do not fit into memory; set a smaller `width`"),
    ):
        networks = settings.family.networks(settings.network, card.shape, len(card.classes))
        networks = {role: network.to(device) for role, network in networks.items()}
        return loop.begin(settings.family, networks, settings.train)


def go_on(
    training: loop.Training,
    settings: Recipe,
    data: arrays.Split,
    path: Path,
    watcher: loop.Watcher,
    label: str,
    where: str,
) -> None:
    """The loop to the last step, behind a bar; raises ``UserError`` if the machine cannot hold or compile a step."""
    with (
        progress(label, settings.train.steps, training.step) as update,
        compute.within_memory(
            f"{where}train: a step does not fit into memory; set a smaller `batch`, `accumulate: 2`, or a smaller "
            "`width` under model"
        ),
    ):
        try:
            loop.run(training, settings.family, settings.train, data, path, watcher, update)
        except Exception as error:
            if not compute.lacks_compiler(error):
                raise
            mend = "install one (CXX says which), or set `compile: false`"
            raise UserError(f"{where}train.compile: no C++ compiler was found that works; {mend}") from None


def broken_off(client: MlflowClient, run_id: str, curves: Curves, error: BaseException) -> None:
    """Let the run say how it ended and why, and show its last points; a store that fails too hides no error."""
    killed = isinstance(error, KeyboardInterrupt | SystemExit)
    with suppress(Exception):
        client.set_terminated(run_id, "KILLED" if killed else "FAILED")
        if not killed:
            client.set_tag(run_id, FAILURE, f"{type(error).__name__}: {error}".splitlines()[0])
        curves.flush()


def open_run(client: MlflowClient, settings: Recipe, inputs: graph.Inputs, work: Path, data: arrays.Clean) -> str:
    """The run of this execution: the one an earlier attempt at it began, or a new one.

    An attempt leaves its run's id beside its checkpoint. One that was killed after its last step, between writing the
    model and DVC's recording it, left no folder: then ``dvc.lock`` does not know these inputs, but the store does.
    """
    note = work / "run"
    run_id = note.read_text() if note.exists() else None
    if run_id is None and not inputs.recorded:
        run_id = tracking.find_run(client, inputs.fingerprint)
    if run_id is not None and tracking.reopen(client, run_id):
        if FAILURE in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, FAILURE)
        return run_id
    tags = {
        tracking.FINGERPRINT: inputs.fingerprint,
        "aigc.recipe": settings.name,
        **{f"dvc.{path}": digest for path, digest in inputs.hashes.items() if path.startswith("data/")},
        **tracking.git_tags(),
        **tracking.flow_tags(),
    }
    params = {
        "dataset": settings.dataset.name,
        "family": settings.family_name,
        "network": settings.network,
        "model": as_dict(settings.family),
        "train": as_dict(settings.train),
        "clean": as_dict(settings.dataset.clean),
        "acquire": as_dict(settings.dataset.acquire),
    }
    run_id = tracking.start_run(client, settings.dataset.name, settings.name, tags, params)
    folder = layout.clean(settings.dataset.name)
    tracking.log_dataset(
        client, run_id, settings.dataset.name, inputs.hashes[str(folder)], folder, arrays.counts(folder)
    )
    layout.replace(note, run_id)
    print(f"MLflow run {run_id} in experiment {settings.dataset.name}", flush=True)
    return run_id


def card_of(settings: Recipe, data: arrays.Clean, fingerprint: str) -> Card:
    """What the model is to be told and to say: without labels all images are of one nameless class.

    Raises ``UserError`` where such a model cannot be sampled as the recipe wants it.
    """
    classes = data.classes if settings.family.conditional else []
    told = settings.family.model_copy(update={"conditional": bool(classes)})
    told.checked(settings.sampling, f"{layout.PARAMS}: recipes.{settings.name}")
    labels = data.train.labels if classes else np.zeros_like(data.train.labels)
    return Card(
        recipe=settings.name,
        dataset=settings.dataset.name,
        family=settings.family_name,
        network=settings.network,
        model=as_dict(settings.family),
        shape=data.shape,
        classes=classes,
        counts=np.bincount(labels, minlength=max(len(classes), 1)).tolist(),
        fingerprint=fingerprint,
        levels=image.coarse(data.train.images),
    )


def looks(card: Card) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers to draw, the first ``LOOKED_AT`` in the classes' shares; and which of them make the picture.

    It has one class a row (`model.worth_a_row`), or ten rows of the only one; none of a class without a training image.
    """
    drawn, classes = proportional(card.counts, LOOKED_AT), model.worth_a_row(np.flatnonzero(card.counts))
    wanted = GRID if card.classes else GRID * GRID
    lacking = np.maximum(wanted - np.bincount(drawn, minlength=len(card.counts))[classes], 0)
    labels = np.concatenate([drawn, np.repeat(classes, lacking)])
    return labels, np.concatenate([model.to_look_at(labels, number, wanted) for number in classes.tolist()])


def variety(images: np.ndarray) -> float:
    """Standard deviation of a pixel over the images, uint8 N×C×H×W, in the mean of all pixels: 0…127.5."""
    return float(images.std(axis=0, dtype=np.float32).mean())


def write_curves(path: Path, history: list[dict[str, float]]) -> None:
    """A column for every curve that any point has, a row a point: ``nan``, a gap in a plot, where it has it not."""
    names = dict.fromkeys(name for point in history for name in point)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(names), restval="nan", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
