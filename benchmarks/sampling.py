"""Quality against the number of network evaluations per image, of a diffusion recipe: a table and a plot.

``python -m benchmarks.sampling RECIPE`` takes the model that `dvc repro train@RECIPE` has made in this checkout, and
the judge of its data set; draws as many samples as were trained on (at most 2,000) with each setting and several seeds;
measures them on the test images; and writes ``docs/images/evaluations.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from aigc_tasks import layout, recipe
from aigc_tasks.card import proportional
from aigc_tasks.clean import arrays
from aigc_tasks.evaluate import quality
from aigc_tasks.features import judge as judges
from aigc_tasks.features import neighbours
from aigc_tasks.model import Sampler

EVALUATIONS = (3, 5, 7, 11, 19, 39)
WAYS = {
    "deterministic": {},
    "stochastic, churn 0.3": {"churn": 0.3},
    "guidance 1.5": {"guidance": 1.5},
}
MOST, SEEDS = 2000, (1, 2, 3)
PICTURE = Path("docs/images/evaluations.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    name = parser.parse_args().recipe
    torch.set_num_threads(1)
    mpl.use("Agg")
    settings = recipe.recipe(name)
    data = arrays.load(layout.clean(settings.dataset.name))
    judge = judges.load(layout.features(settings.dataset.name))
    test = judges.look(judge, data.test.images)[0]
    sampler = Sampler(layout.model(name))
    labels = proportional(sampler.card.counts, min(len(data.train.images), MOST))
    rows = np.sort(np.random.default_rng(0).permutation(len(data.train.images))[: len(labels)])
    floor = quality.fid(judges.look(judge, data.train.images[rows])[0], test)
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    print("| " + " | ".join(["FID ratio; recall", *(str(count) for count in EVALUATIONS)]) + " |")
    print("|---" * (len(EVALUATIONS) + 1) + "|")
    for way, knobs in WAYS.items():
        ratios, recalls = [], []
        for count in EVALUATIONS:
            sampler.sampling = sampler.family.Sampling(evaluations=count, **knobs)
            found = [judges.look(judge, sampler.sample(labels, seed))[0] for seed in SEEDS]
            ratios.append(np.mean([quality.fid(features, test) / floor for features in found]))
            several = [neighbours.manifold(some[: len(test)], test[: len(some)], 5) for some in shuffled(found)]
            recalls.append(np.mean([float(values.recall.float().mean()) for values in several]))
        left.plot(EVALUATIONS, ratios, marker="o", label=way)
        right.plot(EVALUATIONS, recalls, marker="o", label=way)
        print(f"| {way} | " + " | ".join(f"{a:.2f}; {b:.2f}" for a, b in zip(ratios, recalls, strict=True)) + " |")
    for axes, title in ((left, "FID, times real against real"), (right, "recall")):
        axes.set_xscale("log")
        axes.set_xticks(EVALUATIONS, [str(count) for count in EVALUATIONS])
        axes.minorticks_off()
        axes.set_xlabel("network evaluations per image")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    right.legend(fontsize=8)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Software": None})


def shuffled(sets: list[torch.Tensor]) -> list[torch.Tensor]:
    return [features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))] for features in sets]


if __name__ == "__main__":
    main()
