"""What holds for every family, end to end: the same bytes in two clones, resume after a kill, figures, a report."""

from __future__ import annotations

import json
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import FAMILIES, ROOT, Project, checkout, real_data, wait_for, with_every_family
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Project:
    """A project in which `dvc repro` has run with a recipe of every family. Not to be changed."""
    project = with_every_family(checkout(Project(tmp_path_factory.mktemp("every") / "project", dict(env))))
    project.check("dvc", "repro")
    return project


def figures(project: Project, recipe: str) -> dict[str, float]:
    return json.loads((project.path / f"reports/{recipe}/quality.json").read_text())


def test_two_clones_make_the_same_bytes(every: Project, new_project: Callable[[str], Project]) -> None:
    """The GAN's, to its figures, in test_pipeline."""
    other = with_every_family(new_project("elsewhere"))
    other.check("dvc", "repro", "postprocess@digits-diffusion", "postprocess@digits-vae")
    assert other.lock() == {stage: every.lock()[stage] for stage in other.lock()}


@pytest.mark.parametrize("family", ["vae", "diffusion"])
def test_a_killed_training_resumes_to_the_same_bytes(family: str, every: Project, untrained: Project) -> None:
    with_every_family(untrained)
    recipe = f"digits-{family}"
    training = untrained.start("dvc", "repro", f"train@{recipe}")
    folder = untrained.path / ".aigc/checkpoints" / recipe
    wait_for(lambda: list(folder.glob("*/checkpoint.safetensors")), by=training)
    training.send_signal(signal.SIGKILL)
    training.communicate()
    time.sleep(1)
    assert not (untrained.path / "data/models" / recipe).exists()
    assert "resumes after step" in untrained.check("dvc", "repro", f"train@{recipe}")
    assert untrained.hashes()[f"data/models/{recipe}"] == every.hashes()[f"data/models/{recipe}"]
    assert len(untrained.runs()) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_figures_are_complete_and_sound(family: str, every: Project) -> None:
    found = figures(every, f"digits-{family}")
    for prefix in ("", "val_"):
        for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
            assert np.isfinite([found[f"{prefix}{name}"], found[f"{prefix}{name}_floor"]]).all()
    for name in ("precision", "recall", "coverage", "memorised", "memorised_features", "class_accuracy"):
        assert 0 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] <= 1
        assert f"{name}_floor" in found
    assert found["fid_low"] <= found["fid"] <= found["fid_high"]
    assert ("bits_per_dimension" in found) == (family == "vae")
    (run,) = [run for run in every.runs() if run.info.run_name == f"digits-{family}"]
    assert run.data.metrics["quality/recall"] == pytest.approx(found["recall"])
    artifacts = {file.path for file in every.mlflow().list_artifacts(run.info.run_id)}
    assert {"report.html", "grid.png", "neighbours.png", "progress.csv", "quality.json"} <= artifacts
    page = (every.path / f"reports/digits-{family}/report.html").read_text()
    assert page.count("data:image/png;base64,") == (5 if family == "vae" else 4)
    assert "http" not in page.replace("http-equiv", "")


def test_recipes_are_compared_in_a_table_and_a_picture(every: Project) -> None:
    names = [f"digits-{family}" for family in FAMILIES]
    table = every.check("aigc", "compare", *names)
    assert table.splitlines()[0].split() == names
    for row in ("fid_ratio", "recall", "coverage", "memorised", "training, s"):
        assert f"\n{row}" in table
    assert Image.open(every.path / "reports/compare.png").width > 800
    never = every.run("aigc", "compare", "digits-gan", "digits-gam")
    assert never.returncode == 1
    assert "did you mean 'digits-gan'?" in never.stderr


def test_postprocessing_is_measured_before_and_after(every: Project, tmp_path: Path) -> None:
    project = every.copied(tmp_path / "project")
    steps = [{"do": "reject", "by": "quality", "share": 0.2}, {"do": "upscale", "factor": 2}]
    section = {"count": 200, "steps": steps, "save": ["webp", "interpolation", "gif"], "sampling": {"evaluations": 6}}
    project.edit(lambda p: p["recipes"]["digits-diffusion"].update(postprocess=section))
    output = project.check("dvc", "repro", "evaluate@digits-diffusion")
    assert "Running stage 'train@" not in output
    assert "post-processing" in output
    folder = project.path / "data/samples/digits-diffusion"
    assert np.load(folder / "samples.npy").shape == (200, 1, 16, 16)
    assert np.load(folder / "before.npy").shape == (200, 1, 8, 8)
    assert Image.open(folder / "interpolation.gif").n_frames == 30
    assert len(list((folder / "webp").iterdir())) == 200
    assert "before_val_fid" in figures(project, "digits-diffusion")


def test_a_training_that_diverges_says_so_in_its_run(untrained: Project) -> None:
    section = {"steps": 60, "learning_rate": 60.0, "warmup": 60, "log_every": 1}
    untrained.edit(lambda p: p["recipes"]["digits-gan"].update(train=section))
    failed = untrained.run("dvc", "repro", "train@digits-gan")
    (said,) = [line for line in failed.stderr.splitlines() if "training diverged" in line]
    assert said.endswith("; there is no checkpoint yet")
    assert "Traceback" not in failed.stderr
    (run,) = untrained.runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["aigc.failure"] == f"UserError: {said.removeprefix('error: ')}"
    assert "curves/generator" in run.data.metrics  # the steps before


def test_a_network_that_cannot_be_compiled_is_one_line(untrained: Project, tmp_path: Path) -> None:
    untrained.edit(lambda p: p["recipes"]["digits-gan"].update(train={"steps": 2, "compile": True}))
    untrained.env |= {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    failed = untrained.run("dvc", "repro", "train@digits-gan")
    assert "Traceback" not in failed.stderr
    (said,) = [line for line in failed.stderr.splitlines() if line.startswith("error: params.yaml: ")]
    assert "recipes.digits-gan.train.compile: no C++ compiler was found that works; install one (CXX says" in said


def test_a_training_whose_samples_are_all_one_picture_says_so(untrained: Project) -> None:
    section = {"steps": 60, "learning_rate": 0.05, "picture_every": 20}
    untrained.edit(lambda p: p["recipes"]["digits-gan"].update(train=section, model={"width": 16, "objective": "bce"}))
    said = untrained.check("dvc", "repro", "train@digits-gan")
    assert "step 60: all samples look alike; if they stay so, stop and lower `learning_rate`" in said


def test_a_family_from_outside_needs_one_file_and_one_line(untrained: Project) -> None:
    project = untrained
    shutil.copy(ROOT / "tests/test_toy_family.py", project.path / "aigc_tasks/families/toy.py")
    registry = project.path / "aigc_tasks/families/__init__.py"
    line = '    "toy": "aigc_tasks.families.toy:Toy",\n'
    registry.write_text(registry.read_text().replace("FAMILIES = {\n", "FAMILIES = {\n" + line))
    entry = {"dataset": "digits", "family": "toy", "network": "mlp", "model": {}, "train": {"steps": 20}}
    entry |= {"postprocess": {"count": 200}, "evaluate": {}}
    project.edit(lambda p: p["recipes"].update({"digits-toy": entry}))
    project.check("dvc", "repro", "evaluate@digits-toy")
    assert figures(project, "digits-toy")["samples"] == 200


def test_a_folder_of_unlabelled_colour_pictures_trains_with_every_family(project: Project) -> None:
    names = [f"faces32-{family}" for family in FAMILIES]
    with tarfile.open(next(real_data("celeba-10k").glob("*.tar"))) as archive:
        pictures = [member for member in archive.getmembers() if member.name.endswith(".jpg")][:300]
        archive.extractall(project.path / "photographs", pictures, filter="data")
    for name in names:
        project.check("aigc", "add", name, "--source", "photographs")
        project.edit(lambda p, name=name: shorten_faces(p, name))
    project.check("dvc", "repro", *(f"evaluate@{name}" for name in names))
    for name in names:
        found = figures(project, name)
        assert "class_accuracy" not in found
        assert found["coverage_floor"] > 0.8
        assert np.load(project.path / f"data/samples/{name}/samples.npy").shape == (200, 3, 32, 32)


def shorten_faces(params: dict, name: str) -> None:
    params["datasets"]["faces32"]["features"] = {"steps": 60}
    params["recipes"][name]["model"]["width"] = 8
    params["recipes"][name]["train"] = {"steps": 10, "batch": 8, "checkpoint_every": 10, "picture_every": 10}
    params["recipes"][name]["postprocess"] = {"count": 200}
