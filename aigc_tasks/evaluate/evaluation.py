"""The evaluate stage: samples, real images and judge in; figures out, to DVC and to the training's MLflow run."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np

from aigc_tasks import compute, graph, layout, stage, tracking
from aigc_tasks.card import Card, read_card
from aigc_tasks.clean import arrays
from aigc_tasks.evaluate import Knobs, quality
from aigc_tasks.features import judge as judges
from aigc_tasks.recipe import Recipe, recipe


def evaluate(name: str) -> None:
    """The stage: writes ``reports/NAME/quality.json`` and ``confusion.csv``."""
    began = time.monotonic()
    settings = recipe(name)
    device = compute.prepare(settings.evaluate)
    data = arrays.load(layout.clean(settings.dataset.name))
    judge = judges.load(layout.features(settings.dataset.name)).to(device)
    card = read_card(layout.model(name))
    images = np.load(layout.samples(name) / "samples.npy", mmap_mode="r")
    asked = np.load(layout.samples(name) / "labels.npy")
    recognised = judges.look(judge, images)[1]
    figures = measured(judge, images, data, settings.evaluate)
    figures |= recognition(asked if card.classes else None, recognised, len(data.classes))
    folder = layout.report(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.json").write_text(json.dumps(figures, indent=2) + "\n")
    asked_names = [card.classes[label] for label in asked] if card.classes else ["any"] * len(asked)
    write_confusion(folder / "confusion.csv", asked_names, [data.classes[label] for label in recognised])
    record(settings, card, figures, time.monotonic() - began)
    print(f"evaluate {name}  FID {figures['fid']:.3f} is {figures['fid_ratio']:.2f} × the real-against-real floor")


def measured(judge: judges.Judge, images: np.ndarray, data: arrays.Clean, knobs: Knobs) -> dict[str, float]:
    """FID and KID of samples against test images, beside the same for as many training images: the floor."""
    count = min(len(images), len(data.train.images))
    chosen = np.sort(np.random.default_rng(knobs.seed).permutation(len(images))[:count])
    floor = np.sort(np.random.default_rng(knobs.seed).permutation(len(data.train.images))[:count])
    figures: dict[str, float] = {"samples": count, "test_images": len(data.test.images)}
    for suffix, pictures in (("", images[chosen]), ("_floor", data.train.images[floor])):
        figures[f"fid{suffix}"] = quality.fid(judge, pictures, data.test.images)
        mean, spread = quality.kid(
            judge, pictures, data.test.images, knobs.kid_subsets, knobs.kid_subset_size, knobs.seed
        )
        figures[f"kid{suffix}"], figures[f"kid{suffix}_std"] = mean, spread
    figures["fid_ratio"] = figures["fid"] / figures["fid_floor"]
    return figures


def recognition(asked: np.ndarray | None, recognised: np.ndarray, classes: int) -> dict[str, float]:
    """Which classes the judge sees in the samples; against the asked ones if the model was asked for any."""
    figures: dict[str, float] = {
        "classes": classes,
        "classes_present": len(np.unique(recognised)),
        "class_entropy": quality.entropy(recognised, classes),
    }
    if asked is not None:
        figures["class_accuracy"] = float((asked == recognised).mean())
    return figures


def write_confusion(path: Path, asked: list[str], recognised: list[str]) -> None:
    """One row a sample, for DVC's confusion template."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["asked", "recognised"])
        writer.writerows(zip(asked, recognised, strict=True))


def record(settings: Recipe, card: Card, figures: dict[str, float], own_seconds: float) -> None:
    """Add figures, stage timings and DVC's hashes to the run that trained the model."""
    client = tracking.open_client()
    run_id = tracking.find_run(client, card.fingerprint)
    if run_id is None:
        print(f"MLflow has no run of this model (fingerprint {card.fingerprint[:12]}): figures are in reports/ only")
        return
    targets = [target for step in graph.stages(settings.name, settings.dataset.name).values() for target in step]
    seconds = {f"seconds/{target.partition('@')[0]}": stage.seconds(target) for target in targets}
    seconds["seconds/evaluate"] = own_seconds  # of now: the file tells of the time before
    figures = {f"quality/{name}": value for name, value in figures.items()}
    tracking.log_metrics(
        client, run_id, figures | {name: value for name, value in seconds.items() if value is not None}
    )
    for path, digest in graph.recorded_hashes(targets[:-1]).items():
        client.set_tag(run_id, f"dvc.{path}", digest)
    for file in ("grid.png", "confusion.csv", "curves.csv", "quality.json"):
        client.log_artifact(run_id, str(layout.report(settings.name) / file))
