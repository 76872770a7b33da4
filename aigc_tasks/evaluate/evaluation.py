"""The evaluate stage: samples, real images and judge in; figures and a report out, to DVC and to MLflow's run."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_tasks import compute, graph, layout, stage, tracking
from aigc_tasks.card import Card
from aigc_tasks.clean import arrays
from aigc_tasks.errors import UserError
from aigc_tasks.evaluate import figures as measure
from aigc_tasks.evaluate import quality, report
from aigc_tasks.evaluate.figures import Figures
from aigc_tasks.features import judge as judges
from aigc_tasks.features import neighbours
from aigc_tasks.modalities import image
from aigc_tasks.model import Sampler
from aigc_tasks.recipe import Recipe, recipe

COMPARED = 5000  # samples at most whose nearest training images are looked for
ENCODED = 2000  # test images at most that the model's bits per dimension are measured on
PAIRS = 10  # nearest neighbours and reconstructions shown


@dataclass(frozen=True)
class Evidence:
    """What there is to measure: the samples as made, the real images, and who judges."""

    settings: Recipe
    card: Card
    data: arrays.Clean
    judge: judges.Judge
    images: np.ndarray
    asked: np.ndarray
    device: torch.device


def evaluate(name: str) -> None:
    """The stage: writes ``quality.json``, ``report.html`` and what they are made of to ``reports/NAME``."""
    began = time.monotonic()
    settings = recipe(name)
    device = compute.prepare(settings.evaluate)
    data = arrays.load(layout.clean(settings.dataset.name))
    judge = judges.load(layout.features(settings.dataset.name)).to(device)
    sampler = Sampler(layout.model(name), device, settings.sampling)
    images = fitting(np.load(layout.samples(name) / "samples.npy", mmap_mode="r"), data.shape)
    asked = np.load(layout.samples(name) / "labels.npy")
    evidence = Evidence(settings, sampler.card, data, judge, images, asked, device)
    suffices(evidence)
    folder = layout.report(name)
    folder.mkdir(parents=True, exist_ok=True)
    layout.model_card(name).unlink(missing_ok=True)  # of an earlier version

    figures, recognised = measured(evidence)
    nearest, copies = memorised(evidence, folder)
    figures |= copies | likelihood(evidence, sampler) | before(evidence)
    progress, floor = over_training(evidence, folder)
    show_reconstructions(evidence, sampler, folder)
    figures = measure.rounded(figures)
    (folder / "quality.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_confusion(folder / "confusion.csv", evidence, recognised)
    report.write(folder, settings, sampler.card, figures, progress, floor, nearest)
    record(evidence, time.monotonic() - began)
    print(f"evaluate {name}  {report.sentence(figures)}")


def suffices(evidence: Evidence) -> None:
    """Raises ``UserError`` where there are too few images for a covariance."""
    name, data = evidence.settings.name, evidence.data
    counts = {split: len(getattr(data, split).images) for split in arrays.SPLITS}
    for split, count in counts.items():
        if count < 2:
            raise UserError(
                f"{layout.clean(evidence.settings.dataset.name)}: {count} {split} images; at least 2 are needed to "
                f"measure {name}: add images, or set larger shares in the data set's `clean:`"
            )
    if len(evidence.images) < 2:
        raise UserError(f"params.yaml: recipes.{name}.postprocess.count: at least 2 samples are needed to measure")


def fitting(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Samples that post-processing has cut or enlarged, in the size of the real images again."""
    if images.shape[1:] == shape:
        return images
    if shape[1] == shape[2]:
        return np.stack([image.fitted(np.array(sample), shape[1]) for sample in images])
    pixels = torch.from_numpy(np.array(images)).float()
    resized = torch.nn.functional.interpolate(pixels, shape[1:], mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8).numpy()


def measured(evidence: Evidence) -> tuple[Figures, np.ndarray]:
    """Samples against test and, as ``val_…``, validation images; each beside its floor, as many training images.

    Choose by the validation figures, report the test's: a model chosen by the test images is not tested by them.
    """
    data, knobs = evidence.data, evidence.settings.evaluate
    count = min(len(evidence.images), len(data.train.images))
    seen, recognised = judges.look(evidence.judge, evidence.images)
    samples = measure.some(seen, count, knobs.seed)
    floor = measure.some(judges.look(evidence.judge, data.train.images)[0], count, knobs.seed)
    figures: Figures = {"samples": count, "test_images": len(data.test.images), "val_images": len(data.val.images)}
    figures["features"] = samples.shape[1]
    for prefix, split in (("", data.test), ("val_", data.val)):
        real = features(evidence, split.images)
        figures |= {f"{prefix}{name}": value for name, value in measure.similarity(samples, real, knobs).items()}
        floors = measure.plain(floor, real, knobs)
        figures |= {f"{prefix}{name}_floor": value for name, value in floors.items()}
        fid, least = figures[f"{prefix}fid"], figures[f"{prefix}fid_floor"]
        figures[f"{prefix}fid_ratio"] = measure.ratio(fid, least, evidence.settings.dataset.name)
    if data.classes:
        asked = evidence.asked if evidence.card.classes else None
        figures["classes"] = len(data.classes)
        figures |= measure.classes(asked, recognised, len(data.classes), knobs.seed)
        test = judges.look(evidence.judge, data.test.images)[1]
        figures["class_accuracy_floor"] = float((test == data.test.labels).mean())
        figures["class_entropy_floor"] = quality.entropy(test, len(data.classes))
    return figures, recognised


def memorised(evidence: Evidence, folder: Path) -> tuple[list[float], Figures]:
    """The share of samples learned by heart, by pixels and by features, beside the share of validation images.

    A sample counts as memorised if it is nearer to a training image than 99 % of the test images are; ``relative``
    takes its distance in terms of those to the next training images, of samples nearer than a plain picture would be.
    Shows the nearest pairs in ``neighbours.png``: samples above, training images below; returns their distances in grey
    levels.
    """
    data, seed = evidence.data, evidence.settings.evaluate.seed
    rows = some(len(evidence.images), COMPARED, seed)
    test_rows, val_rows = (some(len(split.images), COMPARED, seed) for split in (data.test, data.val))
    sets = evidence.images[rows], data.test.images[test_rows], data.val.images[val_rows]
    near = []
    for view in (pixels, features):
        train = view(evidence, data.train.images)
        near.append([neighbours.closest(view(evidence, images), train) for images in sets])
    by_pixels, by_features = ([apart for apart, _ in found] for found in near)
    figures = measure.memorised("memorised", *(apart[:, 0] for apart in by_pixels))
    drawn, test, val = near[0]
    plain = neighbours.contrast(pixels(evidence, data.train.images), data.shape[0])
    relative = (neighbours.telling(*drawn, plain), neighbours.relative(test[0]), neighbours.telling(*val, plain))
    figures |= measure.memorised("memorised_relative", *relative)
    figures |= measure.memorised("memorised_features", *(apart[:, 0] for apart in by_features))
    distances, partners = (values[:, 0].cpu().numpy() for values in near[0][0])
    closest = np.argsort(distances, kind="stable")[:PAIRS]
    pairs = np.concatenate([evidence.images[rows[closest]], data.train.images[partners[closest]]])
    image.grid(pairs, len(closest)).save(folder / "neighbours.png")
    size = np.sqrt(np.prod(data.shape))
    return [float(distance / size) for distance in distances[closest]], figures


def some(count: int, most: int, seed: int) -> np.ndarray:
    """Row numbers of at most ``most`` of ``count`` images by chance: arrays may be in order of the classes."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def pixels(evidence: Evidence, images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(images)).to(evidence.device).float().flatten(1)


def features(evidence: Evidence, images: np.ndarray) -> Tensor:
    return judges.look(evidence.judge, images)[0]


def likelihood(evidence: Evidence, sampler: Sampler) -> Figures:
    """Bits per dimension of test and training images, of a family that can tell: far apart, it has overfitted."""
    seed = evidence.settings.evaluate.seed
    figures: Figures = {}
    for name, split in (("", evidence.data.test), ("_train", evidence.data.train)):
        rows = some(len(split.images), ENCODED, seed)
        bits = sampler.bits(split.images[rows], split.labels[rows], seed)
        if bits is not None:
            figures |= measure.mean(f"bits_per_dimension{name}", bits, seed)
    return figures


def before(evidence: Evidence) -> Figures:
    """What the samples were before post-processing, and whether it helped: by validation FID, beyond chance."""
    path = layout.samples(evidence.settings.name) / "before.npy"
    if not path.exists():
        return {}
    real = features(evidence, evidence.data.val.images)
    knobs = evidence.settings.evaluate
    drawn, made = (features(evidence, images) for images in (np.load(path, mmap_mode="r"), evidence.images))
    count = min(len(drawn), len(evidence.data.train.images))
    drawn, made = (measure.some(features, count, knobs.seed) for features in (drawn, made))
    figures = {f"before_val_{name}": value for name, value in measure.similarity(drawn, real, knobs).items()}
    figures["postprocess_gain"] = figures["before_val_fid"] - quality.fid(made, real)
    return figures


def over_training(evidence: Evidence, folder: Path) -> tuple[list[dict[str, float]], float]:
    """Validation figures of the few samples kept at every look during training; also ``progress.csv``.

    And the FID of as many training images: the floor of these figures, higher than that of more samples.
    """
    rows = []
    real = features(evidence, evidence.data.val.images)
    with np.load(layout.model(evidence.settings.name) / "snapshots.npz") as looks:
        for step in sorted(looks.files):
            seen = features(evidence, looks[step])
            count = min(len(seen), len(real))
            k = min(evidence.settings.evaluate.neighbours, count - 1)
            seed = evidence.settings.evaluate.seed
            found = neighbours.manifold(measure.some(seen, count, seed), measure.some(real, count, seed), k)
            means = {name: float(values.float().mean()) for name, values in found._asdict().items()}
            rows.append(measure.rounded({"step": int(step), "fid": quality.fid(seen, real), **means}))
    with open(folder / "progress.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    train = evidence.data.train.images
    known = features(evidence, train[some(len(train), len(seen), evidence.settings.evaluate.seed)])
    return rows, quality.fid(known, real)


def show_reconstructions(evidence: Evidence, sampler: Sampler, folder: Path) -> None:
    """Test images above, what the model keeps of them below; nothing for a family that looks at no images."""
    rows = np.linspace(0, len(evidence.data.test.images) - 1, PAIRS).astype(int)
    images, labels = np.array(evidence.data.test.images[rows]), evidence.data.test.labels[rows]
    kept = sampler.reconstruct(images, labels)
    (folder / "reconstructions.png").unlink(missing_ok=True)
    if kept is not None:
        image.grid(np.concatenate([images, kept]), PAIRS).save(folder / "reconstructions.png")


def write_confusion(path: Path, evidence: Evidence, recognised: np.ndarray) -> None:
    """One row a sample, for DVC's confusion template."""
    card, classes = evidence.card, evidence.data.classes or ["any"]
    asked = [card.classes[label] for label in evidence.asked] if card.classes else ["any"] * len(evidence.asked)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["asked", "recognised"])
        writer.writerows(zip(asked, (classes[label] for label in recognised), strict=True))


def record(evidence: Evidence, own_seconds: float) -> None:
    """Add figures, report, stage timings and DVC's hashes to the run that trained the model."""
    settings, folder = evidence.settings, layout.report(evidence.settings.name)
    figures: dict[str, Any] = json.loads((folder / "quality.json").read_text())
    client = tracking.open_client()
    run_id = tracking.find_run(client, evidence.card.fingerprint)
    if run_id is None:
        fingerprint = evidence.card.fingerprint[:12]
        print(f"MLflow has no run of this model (fingerprint {fingerprint}): figures are in reports/ only")
        return
    targets = [target for step in graph.stages(settings.name, settings.dataset.name).values() for target in step]
    seconds = {f"seconds/{target.partition('@')[0]}": stage.seconds(target) for target in targets}
    seconds["seconds/evaluate"] = own_seconds  # of now: the file tells of the time before
    known = {name: value for name, value in seconds.items() if value is not None}
    tracking.log_metrics(client, run_id, {f"quality/{name}": value for name, value in figures.items()} | known)
    for path, digest in graph.recorded_hashes([target for target in targets if "evaluate@" not in target]).items():
        client.set_tag(run_id, f"dvc.{path}", digest)
    for file in sorted(folder.glob("[!.]*")):
        client.log_artifact(run_id, str(file))
