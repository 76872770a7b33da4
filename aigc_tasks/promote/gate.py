"""The gate: may this version take the champion's place? Every criterion with what was wanted, what was found, and why.

"Better" means a lower FID on the same test images by the same judge, beyond what drawing other samples does to it: both
models draw some sets of samples, each with another seed. So a champion that was measured on older data, or by another
judge, is measured again first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from aigc_tasks import compute, graph, layout
from aigc_tasks.clean import arrays
from aigc_tasks.errors import UserError
from aigc_tasks.evaluate import confidence, quality
from aigc_tasks.evaluate.evaluation import COMPARED, fitting
from aigc_tasks.features import judge as judges
from aigc_tasks.modalities import image
from aigc_tasks.promote import Gate, served
from aigc_tasks.promote.decision import Criterion, Decision
from aigc_tasks.recipe import Recipe

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MEASURED = "gate.measured"  # tag of a version: what it was like to the judge
MOST = 10  # lost classes named


@dataclass(frozen=True)
class Measured:
    """What a version's own samples are like to the judge: the FID of each drawing, and the classes recognised.

    ``key`` says against which test images, by which judge and by how many drawings: others do not compare.
    """

    key: str
    fids: list[float]
    classes: list[int]


@dataclass(frozen=True)
class Court:
    """What all versions are measured by."""

    key: str
    gate: Gate
    data: arrays.Clean
    judge: judges.Judge
    test: Tensor
    shown: list[int]  # classes that the judge recognises in the test images

    def measure(self, version: ModelVersion, size: int) -> Measured:
        """Let a registered version draw some sets of so many samples, each with another seed, unless it is known."""
        key = f"{self.key}-{size}"
        known = version.tags.get(MEASURED)
        if known and json.loads(known)["key"] == key:
            return Measured(**json.loads(known))
        maker = served.loaded(version)
        fids, found = [], set()
        for drawing in range(self.gate.drawings):
            images = as_seen(maker.measured(size, drawing).images, self.data.shape)
            features, classes = judges.look(self.judge, images)
            fids.append(quality.fid(features, self.test))
            found |= set(classes.tolist())
        return Measured(key, fids, sorted(found))


def as_seen(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Samples as the judge sees real images: a champion may have learned from data of another size or colour."""
    if len(images[0]) != shape[0]:
        images = np.stack([image.coloured(sample, shape[0]) for sample in images])
    return fitting(images, shape)


def court(settings: Recipe) -> Court:
    """Data and judge as they are now."""
    assert settings.product is not None
    gate, dataset = settings.product.knobs.gate, settings.dataset.name
    data = arrays.load(layout.clean(dataset))
    judge = judges.load(layout.features(dataset)).to(compute.prepare(settings.evaluate))
    test, classes = judges.look(judge, data.test.images)
    hashes = [graph.recorded_hashes([f"{stage}@{dataset}"]) for stage in ("clean", "features")]
    question = json.dumps([hashes, gate.drawings], sort_keys=True)
    key = hashlib.sha256(question.encode()).hexdigest()[:16]
    return Court(key, gate, data, judge, test, sorted(set(classes.tolist())))


def decide(
    settings: Recipe, version: ModelVersion, champion: ModelVersion | None, rolled_back: bool
) -> tuple[Decision, dict[str, Measured]]:
    """Judge the version that was registered from the recipe as it is now; raises ``UserError``.

    Returns also what was measured, by version.
    """
    assert settings.product is not None
    gate, here = settings.product.knobs.gate, court(settings)
    figures = json.loads((layout.report(settings.name) / "quality.json").read_text())
    absolute = bounds(gate, figures, settings.product.name)
    both = [version] if champion is None else [version, champion]
    size = min(gate.most, *(drawn(one) for one in both))  # FID depends on how many there are
    measured = {str(one.version): here.measure(one, size) for one in both}
    ours = measured[str(version.version)]
    theirs = None if champion is None else measured[str(champion.version)]
    criteria = [
        *absolute,
        better(ours, theirs),
        *([classes(ours, theirs.classes if theirs else here.shown, here.data.classes)] if here.data.classes else []),
        memorised(figures),
        *serving(version, gate),
    ]
    if rolled_back:
        criteria.append(Criterion("not rolled back before", "no", "yes", False, "it was rolled back once; train anew"))
    return Decision(int(version.version), None if champion is None else int(champion.version), criteria), measured


def drawn(version: ModelVersion) -> int:
    """How many samples the version's recipe was measured with."""
    return int(json.loads((served.folder(version) / "quality.json").read_text())["samples"])


def bounds(gate: Gate, measured: dict[str, float], product: str) -> list[Criterion]:
    """The absolute ones; raises ``UserError`` for a figure that there is not."""
    criteria = []
    for section, sign in (("at_most", -1), ("at_least", 1)):
        for name, bound in getattr(gate, section).items():
            if name not in measured:
                known = ", ".join(sorted(name for name in measured if "_" not in name or name.endswith("_ratio")))
                raise UserError(
                    f"params.yaml: products.{product}.gate.{section}.{name}: was not measured; there are {known}, …; "
                    "all are in quality.json"
                )
            found, words = measured[name], section.replace("_", " ")
            holds = sign * found >= sign * bound
            reason = f"{name} is {found:.3g} and must be {words} {bound:.3g}"
            criteria.append(Criterion(name, f"{words} {bound:.3g}", f"{found:.3g}", holds, "" if holds else reason))
    return criteria


def better(ours: Measured, theirs: Measured | None) -> Criterion:
    """By FID, whose mean over the drawings is to be lower by more than the 95 % interval of the difference."""
    name, wanted = "better than the champion", "a lower FID, beyond chance"
    if theirs is None:
        return Criterion(name, wanted, "there is no champion yet", True)
    difference, low, high = confidence.of_difference(ours.fids, theirs.fids)
    means = f"{np.mean(ours.fids):.3g} against {np.mean(theirs.fids):.3g}"
    found = f"FID {means}: {difference:+.3g} ({low:+.3g} … {high:+.3g})"
    word = "worse than the champion" if low > 0 else "not better than the champion beyond chance"
    return Criterion(name, wanted, found, high < 0, "" if high < 0 else f"it is {word}: {found}")


def classes(ours: Measured, expected: list[int], names: list[str]) -> Criterion:
    """Every class that the champion draws, or that the test images show where there is no champion."""
    lost = [names[number] for number in expected if number not in ours.classes]
    found = f"{len(expected) - len(lost)} of {len(expected)}"
    some = ", ".join(lost[:MOST]) + (f" and {len(lost) - MOST} more" if len(lost) > MOST else "")
    reason = f"it has lost {'the class' if len(lost) == 1 else 'the classes'} {some}"
    return Criterion("no class lost", f"{len(expected)} classes", found, not lost, reason if lost else "")


def memorised(measured: dict[str, float]) -> Criterion:
    """Not more copies than among images that nobody copied: validation images, whose share is uncertain, too.

    Relative to how near other training images are: of a model that blurs every sample is near to some.
    """
    share, low, floor = (measured[f"memorised_relative{end}"] for end in ("", "_low", "_floor"))
    most = confidence.wilson(floor, int(min(measured["val_images"], COMPARED)))[1]
    holds = low <= most
    found = f"{share:.1%} of its samples are nearly training images"
    wanted = f"{floor:.1%}, as of real images, or up to {most:.1%} by chance"
    reason = f"{found}, of real images that it has not seen {floor:.1%} would be"
    return Criterion("not learned by heart", wanted, found, holds, "" if holds else reason)


def serving(version: ModelVersion, gate: Gate) -> list[Criterion]:
    """It loads outside the checkout, makes there what it makes here, and does so in time."""
    answer = served.ask(version, gate.images, gate.seconds)
    if answer.trouble:
        return [Criterion("served", "loads and answers", "does not", False, f"it cannot be served: {answer.trouble}")]
    found = "the same bytes" if answer.same else "other images"
    same = Criterion(
        "served", "the images that were measured", found, answer.same,
        "" if answer.same else "as it is served it makes other images than here",
    )  # fmt: skip
    quick = answer.seconds <= gate.seconds
    took = f"{answer.seconds:.2g} s"
    reason = f"it takes {took} for {gate.images} images, {gate.seconds:g} s are allowed"
    return [
        same,
        Criterion(f"{gate.images} images in time", f"{gate.seconds:g} s", took, quick, "" if quick else reason),
    ]


def draw(path: Path, pictures: dict[str, Path], decision: Decision) -> None:
    """The sample grids side by side, and what was decided."""
    from matplotlib import image as images
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(pictures), 7), layout="constrained", dpi=100)
    figure.suptitle("promoted" if decision.passed else "refused", fontsize=16, fontweight="bold")
    for number, (title, file) in enumerate(pictures.items(), 1):
        axes = figure.add_subplot(1, len(pictures), number)
        axes.imshow(images.imread(file), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title, fontsize=12)
    figure.savefig(path, metadata={"Software": None})
