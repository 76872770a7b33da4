"""``aigc tune``: search a recipe's knobs for the quality that the validation images measure.

Optuna suggests the knobs of each trial with the tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS 24;
as in Watanabe 2023, arXiv:2304.11127). A suggestion depends on the trial's number and the finished trials alone: a
search that was killed and taken up again finds what an undisturbed one would have found.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import Tensor, nn

from aigc_tasks import compute, graph, layout, model, stage, tracking
from aigc_tasks.card import proportional
from aigc_tasks.clean import arrays
from aigc_tasks.errors import UserError
from aigc_tasks.evaluate import doubt, quality
from aigc_tasks.features import judge as judges
from aigc_tasks.modalities import image
from aigc_tasks.recipe import Recipe, as_dict
from aigc_tasks.space import Space, changed, current, described, holds, listed, sections, suggestion, trains, write
from aigc_tasks.tracking import Curves
from aigc_tasks.train import loop
from aigc_tasks.train.training import INITIAL, begun, card_of, go_on

SAMPLES = 2000  # of a trial at most, and never more than there are training images
SEEDS = (1, 2)  # of two draws whose FIDs are averaged
POINTS = 50  # of a trial's curves in MLflow, about


@dataclass(frozen=True)
class Ground:
    """What trials learn from and what they are measured on; ``real`` are the validation images' features N×F."""

    data: arrays.Clean
    judge: judges.Judge
    real: Tensor


@dataclass(frozen=True)
class Search:
    """What every trial of one search shares."""

    settings: Recipe
    space: Space
    fingerprint: str
    folder: Path
    study: optuna.Study

    def trained(self, number: int) -> Path:
        """Where a trial trains: all in the first one's folder, and so once, where they differ in sampling only."""
        return self.folder / f"trial-{number if trains(self.space) else 0}"

    def value(self, trial: FrozenTrial) -> float:
        """Mean FID, at least 0; infinite for a trial that failed."""
        return trial.values[0]

    def finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(states=(TrialState.COMPLETE,))

    def best(self) -> FrozenTrial:
        """The first of the best: the recipe as it stands, where no other is better."""
        return min(self.finished(), key=self.value)


def tune(settings: Recipe, trials: int, searched: Space, steps: int | None) -> None:
    """Search until there are ``trials`` finished ones, then write what is better than the recipe to ``params.yaml``.

    ``steps`` shortens the trials' training. Raises ``UserError``.
    """
    signal.signal(signal.SIGTERM, stage.terminate)  # so that MLflow is told
    if steps is not None and "train.steps" in searched:
        raise UserError("--steps: train.steps is searched; omit one of the two")
    start = {knob: current(settings, knob) for knob in searched}
    settings = changed(settings, {} if steps is None else {"train.steps": steps}, "")
    compute.prepare(settings.train)  # a GPU that is missing is not a trial's fault
    prepare_data(settings.dataset.name)
    fingerprint = fingerprint_of(settings, searched)
    folder = layout.LOCAL / "tune" / settings.name / fingerprint[:8]
    with only_one(folder):
        search = Search(settings, searched, fingerprint, folder, open_study(folder, searched, start))
        about = f"{described(searched)}; trials of {settings.train.steps} steps; {folder}"
        print(f"tune {settings.name}  {about}", flush=True)
        if len(search.finished()) < trials:
            run_trials(search, trials)
        conclude(search)


def prepare_data(dataset: str) -> None:
    """Bring the data set and its judge up to date, through DVC; raises ``UserError``."""
    targets = [f"acquire@{dataset}", f"clean@{dataset}", f"features@{dataset}"]
    if graph.stale(targets):
        try:
            graph.run(targets, print)
        except graph.StageFailed as error:
            raise UserError(str(error)) from None


def fingerprint_of(settings: Recipe, searched: Space) -> str:
    """Of all that a search's values depend on: data, judge and code, bounds, and the knobs that are not searched."""
    values = tracking.flat({section: as_dict(knobs) for section, knobs in sections(settings).items()})
    facts = [
        *(settings.name, settings.family_name, settings.network),
        {knob: value for knob, value in values.items() if knob not in searched},
        {knob: distribution_to_json(distribution) for knob, distribution in searched.items()},
        graph.inputs(f"train@{settings.name}").hashes,
        graph.recorded_hashes([f"features@{settings.dataset.name}"]),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"{folder}: this search is at work already; wait for it to end, or stop it") from None


def open_study(folder: Path, searched: Space, start: dict[str, Any]) -> optuna.Study:
    """The search's own SQLite file, begun or as it was left. Its first trial is ``start``, the recipe as it stands.

    What the recipe has outside of the bounds keeps its value in that trial, and the sampler learns nothing of it.
    Raises ``UserError`` where the recipe stands otherwise by now: nothing found would be known to be better than that.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = f"sqlite:///{(folder / 'study.db').resolve()}"
    study = optuna.create_study(storage=storage, study_name="tune", direction="minimize", load_if_exists=True)
    if not study.get_trials(deepcopy=False):
        study.set_user_attr("start", start)
        study.enqueue_trial({knob: value for knob, value in start.items() if holds(searched[knob], value)})
    began = study.user_attrs["start"]
    if start not in [began, *(trial.user_attrs.get("knobs") for trial in study.get_trials())]:
        raise UserError(
            f"{folder}: this search began with {listed(began)}; the recipe has {listed(start)} now, which no trial has "
            "measured; put it back to go on, or remove that folder to search anew"
        )
    return study


def run_trials(search: Search, trials: int) -> None:
    """The trials that are missing, in a run of MLflow that is the parent of theirs."""
    settings = search.settings
    data = arrays.load(layout.clean(settings.dataset.name))
    judge = judges.load(layout.features(settings.dataset.name)).to(compute.prepare(settings.train))
    ground = Ground(data, judge, judges.look(judge, data.val.images)[0])
    drawn = min(len(data.train.images), SAMPLES)
    few = doubt({"samples": drawn, "test_images": len(ground.real), "features": ground.real.shape[1]})
    if few:
        print(f"validation: {few}, nor is what is chosen by it; a larger `clean.val` helps", flush=True)
    client = tracking.open_client()
    tags = {tracking.FINGERPRINT: search.fingerprint, "aigc.tune": settings.name, **tracking.git_tags()}
    about = {"searched": described(search.space), "steps": settings.train.steps}
    with tracked(client, settings.dataset.name, f"tune {settings.name}", tags, about) as parent:
        while len(search.finished()) < trials:
            trial = next_trial(search.study)
            knobs = suggested(search, trial)
            value = attempt(search, ground, trial.number, knobs, client, parent)
            search.study.tell(trial, value)
            if len(search.finished()) == trials or trains(search.space):
                shutil.rmtree(search.trained(trial.number), ignore_errors=True)
            best = search.best()
            told = f"val FID {value:.4g}" if math.isfinite(value) else "failed"
            told += f"  best {search.value(best):.4g} (trial {best.number})"
            print(f"trial {trial.number}  {listed(knobs)}  {told}", flush=True)
        if math.isfinite(search.value(best)):
            tracking.log_metrics(client, parent, {"val_fid": search.value(best)})
        for knob, found in best.user_attrs["knobs"].items():
            client.set_tag(parent, f"best.{knob}", str(found))


def next_trial(study: optuna.Study) -> Trial:
    """The trial that an earlier process was killed in, with what was suggested to it; else a new one."""
    for left in study.get_trials(states=(TrialState.RUNNING,)):
        return Trial(study, left._trial_id)
    return study.ask()


def suggested(search: Search, trial: Trial) -> dict[str, Any]:
    """The trial's knobs, as they would be written; those of the first are the recipe's own."""
    start = search.study.user_attrs["start"]
    knobs: dict[str, Any] = {}
    for place, (knob, distribution) in enumerate(search.space.items()):
        if trial.number == 0 and not holds(distribution, start[knob]):
            continue
        # A sampler for each suggestion: one that lived on would have a state, which a kill forgets.
        seed = compute.seeded(trial.number, place) % 2**32
        search.study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=False)
        knobs[knob] = suggestion(trial, knob, distribution)
    knobs = start if trial.number == 0 else knobs
    trial.set_user_attr("knobs", knobs)
    return knobs


@contextmanager
def tracked(
    client: MlflowClient, experiment: str, name: str, tags: dict[str, str], params: dict[str, Any]
) -> Iterator[str]:
    """The run of MLflow with the fingerprint in ``tags``, begun or taken up again; it ends with the block."""
    run_id = tracking.find_run(client, tags[tracking.FINGERPRINT])
    if run_id is None or not tracking.reopen(client, run_id):
        run_id = tracking.start_run(client, experiment, name, tags, params)
    try:
        yield run_id
    except BaseException as error:
        client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def attempt(
    search: Search, ground: Ground, number: int, knobs: dict[str, Any], client: MlflowClient, parent: str
) -> float:
    """One trial in its own run of MLflow: its value, infinite if training diverged or the knobs do not go together."""
    tags = {tracking.FINGERPRINT: f"{search.fingerprint}-{number}", "mlflow.parentRunId": parent}
    try:
        with tracked(client, search.settings.dataset.name, f"trial {number}", tags, knobs) as run_id:
            # A small choice is soon exhausted, and training is deterministic.
            known = {search.value(trial) for trial in search.finished() if trial.user_attrs["knobs"] == knobs}
            path = search.trained(number) / "checkpoint.safetensors"
            settings = changed(search.settings, knobs, "")
            value = min(known, default=math.inf)
            if math.isinf(value):
                value = measured(settings, ground, path, f"trial {number}", Curves(client, run_id))
            tracking.log_metrics(client, run_id, {"val_fid": value})
    except UserError as error:
        print(f"trial {number} failed: {str(error).splitlines()[0]}", flush=True)
        return math.inf
    return value


def measured(settings: Recipe, ground: Ground, path: Path, label: str, curves: Curves) -> float:
    """Train, or go on training, and draw: mean FID of ``SEEDS`` draws against the validation images."""
    network, counts = trained(settings, ground.data, path, label, curves)
    labels = proportional(counts, min(len(ground.data.train.images), SAMPLES))
    given = (settings.family, network, ground.data.shape, labels)
    levels = image.coarse(ground.data.train.images)
    draws = [model.sample(*given, seed, settings.sampling, levels) for seed in SEEDS]
    return sum(quality.fid(judges.look(ground.judge, images)[0], ground.real) for images in draws) / len(SEEDS)


class Thin:
    """Passes about ``POINTS`` points of a trial's curves on to MLflow, and no pictures."""

    def __init__(self, curves: Curves, steps: int) -> None:
        self.curves, self.apart, self.next = curves, steps / POINTS, 0.0

    def point(self, step: int, curves: dict[str, float]) -> None:
        if step >= self.next:
            self.curves.point(step, curves)
            self.next = step + self.apart

    def picture(self, step: int, network: nn.Module) -> None: ...

    def saving(self, step: int) -> None:
        self.curves.flush()


def trained(settings: Recipe, data: arrays.Clean, path: Path, name: str, curves: Curves) -> tuple[nn.Module, list[int]]:
    """The sampling network's moving average after training, and the training images per class that it was told of."""
    knobs = settings.train
    device = compute.prepare(knobs)
    torch.manual_seed(compute.seeded(knobs.seed, INITIAL))
    card = card_of(settings, data, "")
    training = begun(settings, card, device, "")
    loop.resume(training, path)
    go_on(training, settings, data.train, path, Thin(curves, knobs.steps), name, "")
    curves.flush()
    return training.ema.eval(), card.counts


def conclude(search: Search) -> None:
    """Say what was found; write it to ``params.yaml`` once, if it is better than the recipe as it stood."""
    name, best, (first, *others) = search.settings.name, search.best(), search.finished()
    if best.number == first.number:
        why = "every trial failed" if math.isinf(search.value(best)) else f"val FID {search.value(first):.4g}"
        print(f"none of {1 + len(others)} trials is better than the recipe as it stood ({why})")
        print(f"{layout.PARAMS} is unchanged")
        return
    knobs = best.user_attrs["knobs"]
    told = f"val FID {search.value(best):.4g}, as the recipe stood {search.value(first):.4g}; {listed(knobs)}"
    print(f"trial {best.number} of {1 + len(others)} is best: {told}")
    if search.study.user_attrs.get("written") == best.number:
        print(f"{layout.PARAMS}: written by an earlier run of this search, not again; next: aigc run {name}")
        return
    for line in write(name, knobs):
        print(line)
    search.study.set_user_attr("written", best.number)
    print(f"review: git diff {layout.PARAMS}; next: aigc run {name}")
