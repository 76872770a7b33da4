"""The recipes as they stand, not shortened: what `dvc repro` gives in a fresh clone. Bounds leave room for rounding."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import ROOT, Project

BOUNDS = {"diffusion": (1.6, 0.85), "gan": (1.9, 0.75), "vae": (2.4, 0.85)}  # FID ratio at most, recall at least


@pytest.mark.slow
def test_the_recipes_draw_digits_of_the_asked_class_and_invent_them(project: Project) -> None:
    shutil.copy(ROOT / "params.yaml", project.path / "params.yaml")
    for family, (ratio, recall) in BOUNDS.items():
        project.check("dvc", "repro", f"evaluate@digits-{family}")
        figures = json.loads((project.path / f"reports/digits-{family}/quality.json").read_text())
        assert figures["fid_ratio"] < ratio, family
        assert figures["class_accuracy"] > 0.96
        assert figures["classes_present"] == 10
        assert figures["class_entropy"] > 0.99
        assert figures["recall"] > recall, family
        if family != "vae":
            assert figures["memorised"] <= 0.02
