"""End to end: `dvc repro`, the flow, changed knobs, moves."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import USER, Project, wait_for
from PIL import Image

from aigc_tasks import graph

pytestmark = pytest.mark.slow

STAGES = [
    "acquire@digits", "clean@digits", "features@digits", "train@digits-gan", "postprocess@digits-gan",
    "evaluate@digits-gan",
]  # fmt: skip


def ran(output: str) -> list[str]:
    """The stages that DVC says it ran."""
    return re.findall(r"Running stage '(.*)'", output)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_samples_and_grid_are_what_they_should_be(finished: Project) -> None:
    folder = finished.path / "data/samples/digits-gan"
    samples, labels = np.load(folder / "samples.npy"), np.load(folder / "labels.npy")
    assert samples.shape == (200, 1, 8, 8)
    assert samples.dtype == np.uint8
    assert np.bincount(labels).tolist() == pytest.approx([20] * 10, abs=1)
    pngs = sorted((folder / "png").iterdir())
    assert len(pngs) == 200
    assert pngs[7].name == f"00007_{labels[7]}.png"
    assert (np.array(Image.open(pngs[7])) == samples[7, 0]).all()
    assert Image.open(finished.path / "reports/digits-gan/grid.png").width > 500


def test_one_run_records_everything(finished: Project) -> None:
    (run,) = finished.runs()
    client = finished.mlflow()
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "60"
    assert run.data.params["model.objective"] == "relativistic"
    assert re.fullmatch(r"[0-9a-f]{40}", run.data.tags["mlflow.source.git.commit"])
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.name == "digits"
    assert entry.dataset.digest == finished.hashes()["data/clean/digits"]
    for path in ("data/clean/digits", "data/models/digits-gan", "data/samples/digits-gan"):
        assert run.data.tags[f"dvc.{path}"] == finished.hashes()[path]
    quality = json.loads((finished.path / "reports/digits-gan/quality.json").read_text())
    for name, value in quality.items():
        assert run.data.metrics[f"quality/{name}"] == pytest.approx(value)
    for stage in ("acquire", "clean", "features", "train", "postprocess", "evaluate"):
        assert run.data.metrics[f"seconds/{stage}"] > 0
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "curves/generator")] == [20, 40, 60]
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")]
    assert sorted(int(path.split("+")[2]) for path in pictures) == [0, 30, 60]


def test_the_model_loads_without_unpickling_and_without_the_checkout(finished: Project, tmp_path: Path) -> None:
    (run,) = finished.runs()
    program = f"""
import pickle, sys
def refuse(*a, **k): raise AssertionError("unpickled")
pickle.load = pickle.loads = pickle.Unpickler = refuse
import mlflow, pandas as pd
mlflow.set_tracking_uri("sqlite:///{finished.path}/mlruns/mlflow.db")
model = mlflow.pyfunc.load_model("runs:/{run.info.run_id}/model")
images = model.predict(pd.DataFrame({{"label": ["3", "7"], "count": [2, 1], "seed": [1, 1]}}))
assert images.shape == (3, 1, 8, 8) and images.dtype == "uint8", images
import aigc_tasks
print(aigc_tasks.__file__)
"""
    done = subprocess.run(["python", "-c", program], cwd=tmp_path, env=finished.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "model/code/aigc_tasks" in done.stdout


def test_dvcs_own_commands_know_the_results(finished: Project) -> None:
    metrics = json.loads(finished.check("dvc", "metrics", "show", "--json"))
    figures = metrics[""]["data"]["reports/digits-gan/quality.json"]["data"]
    assert figures["fid_ratio"] == pytest.approx(figures["fid"] / figures["fid_floor"], rel=1e-4)
    finished.check("dvc", "plots", "show", "--out", "plots.out")
    page = (finished.path / "plots.out/index.html").read_text()
    assert "grid.png" in page
    assert "recognised" in page
    shutil.rmtree(finished.path / "plots.out")
    assert "recipes.digits-gan.train" in finished.check("dvc", "params", "diff", "--all")


# --- what runs again --------------------------------------------------------------------------------------------------


def test_nothing_runs_twice(done: Project) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in done.path.rglob("*") if ".dvc" not in path.parts and path.is_file()
    }
    assert ran(done.check("dvc", "repro")) == []
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert len(done.runs()) == 1


def train_knob(project: Project) -> None:
    project.edit(lambda p: p["recipes"]["digits-gan"]["train"].update(seed=1))


def sampling_knob(project: Project) -> None:
    project.edit(lambda p: p["recipes"]["digits-gan"]["postprocess"].update(seed=1))


def append(project: Project, path: str) -> None:
    with open(project.path / path, "a") as file:
        file.write("\n# changed\n")


def test_a_changed_family_is_trained_again(done: Project) -> None:
    with contextlib.chdir(done.path):
        before = graph.inputs("train@digits-gan").fingerprint
        append(done, "aigc_tasks/families/gan.py")
        assert graph.inputs("train@digits-gan").fingerprint != before, "it will be another run"
    assert list(json.loads(done.check("dvc", "status", "--json"))) == STAGES[3:]


def test_what_no_stage_depends_on_runs_nothing(done: Project) -> None:
    for path in ("aigc_tasks/networks/mlp.py", "aigc_tasks/acquire/mnist.py", "aigc_tasks/cli.py", "README.md"):
        append(done, path)
    assert ran(done.check("dvc", "repro")) == []
    assert len(done.runs()) == 1


def test_a_knob_put_back_brings_back_the_model_without_training(done: Project) -> None:
    before = done.hashes()
    train_knob(done)
    assert ran(done.check("dvc", "repro")) == STAGES[3:]
    assert done.hashes() != before
    done.edit(lambda p: p["recipes"]["digits-gan"]["train"].pop("seed"))
    assert ran(done.check("dvc", "repro")) == []
    assert done.hashes() == before
    assert len(done.runs()) == 2


def test_every_module_a_stage_imports_is_one_of_its_dependencies(finished: Project) -> None:
    """But for those that do not touch the bytes: reading settings, watching, recording, saying how far it is."""
    watching = {
        "__init__", "edits", "errors", "graph", "knobs", "layout", "lifeline", "progress", "recipe", "schedule",
        "stage", "tracking", "worktree",
        "modalities/__init__", "networks/__init__", "families/__init__", "acquire/__init__", "served_model",
    }  # fmt: skip
    stages = finished.lock()
    for address in STAGES:
        stage = address.split("@")[0]
        noted = (finished.path.parent / "imported" / address).read_text()
        used = set(re.findall(r".*/aigc_tasks/(.*)\.py", noted))
        assert f"{stage}/__main__" in used
        allowed = [dep["path"].removeprefix("aigc_tasks/").removesuffix(".py") for dep in stages[address]["deps"]]
        knobs = {
            f"{package}/__init__"
            for package in ("acquire", "clean", "features", "train", "postprocess", "evaluate", "promote")
        }
        readers = {"acquire/": ("acquire",), "families/": ("train", "postprocess", "evaluate")}
        settings = {m for m in used for kind, by in readers.items() if m.startswith(kind) and stage not in by}
        # MLflow lets the model that it logs answer once, which makes none of the stage's bytes
        served = {m for m in used if stage == "train" and m.startswith(("product", "postprocess/", "features/"))}
        missing = {
            module
            for module in used - watching - knobs - settings - served
            if not any(module == dep or module.startswith(f"{dep}/") for dep in allowed)
        }
        assert not missing, f"{address} imports {missing}, which dvc.yaml does not name"


# --- the same bytes ---------------------------------------------------------------------------------------------------


def test_the_flow_makes_the_same_bytes_and_the_same_record(
    finished: Project, project: Project, prefect_api: str
) -> None:
    project.env["PREFECT_API_URL"] = prefect_api
    output = project.check("aigc", "run", "digits-gan")
    assert project.lock() == finished.lock()
    (by_flow,), (by_hand,) = project.runs(), finished.runs()
    assert by_flow.data.params == by_hand.data.params
    timed = ("seconds/", "system/")
    for one, other in ((by_flow, by_hand), (by_hand, by_flow)):
        for name, value in one.data.metrics.items():
            assert name.startswith(timed) or other.data.metrics[name] == value
    ours = {"mlflow.source.git.commit", "mlflow.runName", "prefect.flow_run_id", "git.dirty"}
    assert set(by_flow.data.tags) - set(by_hand.data.tags) == {"prefect.flow_run_id"}
    for name in set(by_hand.data.tags) - ours:
        if not name.startswith("mlflow."):
            assert by_flow.data.tags[name] == by_hand.data.tags[name]
    for expected in ("real against real", "10 classes", "reports/digits-gan/grid.png", "aigc ui", "dvc repro"):
        assert expected in output
    assert by_flow.info.run_id in output
    tasks, artifact = shown_by_prefect(project, by_flow.data.tags["prefect.flow_run_id"])
    assert tasks == dict.fromkeys(("acquire", "clean", "train", "postprocess", "evaluate"), "Ran")
    assert "fid_ratio" in artifact
    assert "data:image/png;base64," in artifact
    again = project.check("aigc", "run", "digits-gan")
    assert "up to date" in again
    assert len(project.runs()) == 1


def shown_by_prefect(project: Project, flow_run_id: str) -> tuple[dict[str, str], str]:
    """State names of the tasks of a flow run, and its artifact; asked of the real server."""
    api = project.env["PREFECT_API_URL"]

    def post(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{api}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    chosen = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    tasks: dict[str, str] = {}

    def all_told() -> bool:
        """They are recorded from events, a moment later."""
        tasks.update({run["name"]: run["state_name"] for run in post("/task_runs/filter", chosen)})
        return len(tasks) == 5 and "Running" not in tasks.values()

    wait_for(all_told)
    artifacts = post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}})
    return tasks, next(artifact["data"] for artifact in artifacts if artifact["key"].endswith("-quality"))


def test_a_flow_with_nothing_to_do_shows_five_skipped_tasks(done: Project, prefect_api: str) -> None:
    done.env["PREFECT_API_URL"] = prefect_api
    program = """
from flows.pipeline import pipeline
state = pipeline("digits-gan", return_state=True)
print(state.name, state.state_details.flow_run_id)
"""
    name, flow_run_id = done.check("python", "-c", program).split()[-2:]
    assert name == "UpToDate"
    assert set(shown_by_prefect(done, flow_run_id)[0].values()) == {"Skipped"}


def test_a_moved_checkout_goes_on(done: Project, tmp_path: Path) -> None:
    done.path.rename(tmp_path / "moved")
    moved = Project(tmp_path / "moved", done.env)
    assert ran(moved.check("dvc", "repro")) == []
    sampling_knob(moved)
    assert ran(moved.check("dvc", "repro")) == STAGES[4:]
    (run,) = moved.runs()
    assert "up to date" in moved.check("aigc", "list")
    program = f"""
import mlflow
client = mlflow.MlflowClient("sqlite:///{moved.path}/mlruns/mlflow.db")
print(open(client.download_artifacts("{run.info.run_id}", "quality.json")).read())
"""
    assert json.loads(moved.check("python", "-c", program)) == json.loads(
        (moved.path / "reports/digits-gan/quality.json").read_text()
    )


def test_a_model_without_labels_is_measured_without_them(done: Project) -> None:
    done.edit(lambda p: p["recipes"]["digits-gan"]["model"].update(conditional=False))
    assert ran(done.check("dvc", "repro")) == STAGES[3:]
    figures = json.loads((done.path / "reports/digits-gan/quality.json").read_text())
    assert "class_accuracy" not in figures
    assert figures["classes"] == 10
    assert sorted((done.path / "data/samples/digits-gan/png").iterdir())[7].name == "00007.png"
    grid = Image.open(done.path / "reports/digits-gan/grid.png")
    assert grid.width == grid.height


def test_an_experiment_in_a_folder_of_its_own_is_recorded_in_the_checkouts_store(untrained: Project) -> None:
    """DVC deletes the folder when the experiment has ended."""
    untrained.env |= USER
    untrained.check(
        "dvc", "exp", "run", "--temp", "--set-param", "recipes.digits-gan.train.steps=20", "train@digits-gan"
    )
    (run,) = untrained.runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "20"
