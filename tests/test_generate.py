"""Images from a product: by the command, by a function, by MLflow's own server."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import TIMEOUT, Project, error
from market import PRODUCT
from PIL import Image
from safetensors.numpy import load_file, save_file

from aigc_tasks import lifeline, product, servers
from aigc_tasks.card import shares
from aigc_tasks.errors import UserError
from aigc_tasks.generate import begun, generate, write
from aigc_tasks.product import BATCH
from aigc_tasks.promote import registry, served

pytestmark = pytest.mark.slow


def bytes_in(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_the_asked_class(settled_market: Project, tmp_path: Path) -> None:
    asked = ("--count", "30", "--label", "3", "--seed", "7")
    for name in ("a", "b"):
        said = settled_market.check("aigc", "generate", PRODUCT, *asked, "--out", str(tmp_path / name))
    assert f"30 images by {PRODUCT} version 2 (fair) in {tmp_path / 'b'}" in said
    assert bytes_in(tmp_path / "a") == bytes_in(tmp_path / "b")
    pictures = sorted((tmp_path / "a").glob("*_3.png"))
    assert len(pictures) == 30
    assert Image.open(pictures[0]).size == (8, 8)
    note = json.loads((tmp_path / "a/generated.json").read_text())
    assert (note["product"], note["version"], note["count"], note["label"], note["seed"]) == (PRODUCT, 2, 30, "3", 7)


def test_the_function_the_command_and_the_served_model_agree(
    settled_market: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled_market.check("aigc", "generate", PRODUCT, "--count", "12", "--format", "npy", "--out", str(tmp_path / "o"))
    monkeypatch.chdir(settled_market.path)
    images, labels = generate(PRODUCT, 12)
    np.testing.assert_array_equal(images, np.load(tmp_path / "o/images.npy"))
    np.testing.assert_array_equal(labels, np.load(tmp_path / "o/labels.npy"))
    port = servers.free_port(0)
    serve = ("models", "serve", "-m", f"models:/{PRODUCT}@champion", "-p", str(port), "--env-manager", "local")
    env = {**settled_market.env, "MLFLOW_TRACKING_URI": f"sqlite:///{settled_market.path}/mlruns/mlflow.db"}
    child = lifeline.spawn("mlflow", *serve, env=env, output=subprocess.DEVNULL, cwd=tmp_path)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not servers.answers(f"http://127.0.0.1:{port}/health"):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        address = f"http://127.0.0.1:{port}/invocations"

        def ask(*rows: dict[str, object]) -> np.ndarray:
            body = json.dumps({"dataframe_records": rows}).encode()
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return np.array(json.load(answer)["predictions"])

        found = ask({"count": 12, "seed": 0})
        assert ask({"label": "3", "count": 2}, {"label": "4"}).shape == (3, 1, 8, 8), "what is not said has a default"
    finally:
        lifeline.stop(child)
    np.testing.assert_array_equal(found, images)


def test_the_served_model_names_the_field_that_is_wrong(
    settled_market: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{settled_market.path}/mlruns/mlflow.db")
    model = mlflow.pyfunc.load_model(f"models:/{PRODUCT}@champion")
    for row, said in [
        ({"count": 2.5}, "count: expected a whole number from 1, got 2.5"),
        ({"count": "x"}, "count: expected a whole number from 1, got x"),
        ({"count": 0}, "count: expected a whole number from 1, got 0"),
        ({"seed": -1}, "seed: expected a whole number from 0, got -1"),
        ({"seed": 1.5}, "seed: expected a whole number from 0, got 1.5"),
        ({"options": "{bad"}, "options: expected knobs and values as JSON, got {bad"),
        ({"options": "null"}, "options: expected knobs and values as JSON, got null"),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
            model.predict(pd.DataFrame([row]))
    gaps = pd.DataFrame([{"count": 2, "seed": 3}, {}])  # which makes 2.0 of 2
    assert len(model.predict(gaps)) == 3


@pytest.mark.parametrize("address", [f"{PRODUCT}@previous", f"{PRODUCT}@1", f"{PRODUCT}@challenger"])
def test_any_version_and_alias(address: str, settled_market: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(settled_market.path)
    images, _ = generate(address, 5)
    assert images.shape == (5, 1, 8, 8)
    assert not np.array_equal(images, generate(PRODUCT, 5)[0])


def test_a_generation_that_was_killed_goes_on_to_the_same_bytes(
    settled_market: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("aigc", "generate", PRODUCT, "--count", "5000", "--seed", "1", "--out")
    child = settled_market.start(*command, str(tmp_path / "killed"), start_new_session=True)
    note = tmp_path / "killed/generated.json"
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and not (note.exists() and json.loads(note.read_text())["batches"] >= 3):
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert json.loads(note.read_text())["batches"] < -(-5000 // BATCH), "killed too late to tell anything"
    settled_market.check(*command, str(tmp_path / "killed"))
    settled_market.check(*command, str(tmp_path / "whole"))
    assert bytes_in(tmp_path / "killed") == bytes_in(tmp_path / "whole")
    assert "all there before" in settled_market.check(*command, str(tmp_path / "whole"))


def test_batches_do_not_depend_on_how_many_there_are(settled_market: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(settled_market.path)
    many, _ = generate(PRODUCT, 2 * BATCH + 10, seed=3)
    few, _ = generate(PRODUCT, BATCH, seed=3)
    np.testing.assert_array_equal(many[:BATCH], few)


def test_a_rare_class_has_its_share_over_all_batches(
    settled_market: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image in about 1,000: in no batch by itself does it come to a whole one."""
    monkeypatch.chdir(settled_market.path)
    shutil.copytree(served.folder(registry.find(PRODUCT)[1]), tmp_path / "product")
    card = json.loads((tmp_path / "product/model.json").read_text())
    (tmp_path / "product/model.json").write_text(json.dumps({**card, "counts": [1000] * 9 + [9]}))
    maker = product.Maker(tmp_path / "product")
    count = 10 * BATCH
    labels = np.concatenate([batch.labels for batch in maker.batches(count, seed=3)])
    each, expected = np.bincount(labels, minlength=10), shares(maker.card.counts) * count
    assert (np.abs(each - expected) <= 1).all()
    assert each[9] >= 2
    later = np.concatenate([batch.labels for batch in maker.batches(count, seed=3, first=7)])
    np.testing.assert_array_equal(later, labels[7 * BATCH :])
    assert len({tuple(maker.images(2, seed=seed)[1]) for seed in range(5)}) > 1, "few images are not always of the same"


def test_a_class_without_a_training_image_is_not_made_up(
    settled_market: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a few images all may lie in other splits; the class is a name of the model's, and never learned."""
    monkeypatch.chdir(settled_market.path)
    shutil.copytree(served.folder(registry.find(PRODUCT)[1]), tmp_path / "product")
    card = json.loads((tmp_path / "product/model.json").read_text())
    (tmp_path / "product/model.json").write_text(json.dumps({**card, "counts": [1000] * 9 + [0]}))
    maker = product.Maker(tmp_path / "product")
    assert len(maker.images(2, "8")[0]) == 2
    with pytest.raises(UserError, match=r"^label: the model has learned from no image of '9'; name another"):
        maker.images(2, "9")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "eleven"], "label: there is no 'eleven'; known are: 0, 1, 2"),
        (["--option", "temperature"], "--option temperature: expected KNOB=VALUE"),
        (["--option", "temperature=["], "--option temperature=[: '[' is no value"),
        (["--option", "temperatur=1"], "options.temperatur: unknown key; did you mean 'temperature'?"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], words: str, settled_market: Project, tmp_path: Path) -> None:
    done = settled_market.run("aigc", "generate", PRODUCT, "--out", str(tmp_path / "o"), *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("o/*.png"))


def test_a_folder_that_holds_something_else_is_left_alone(
    settled_market: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(settled_market.path)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already and holds something else"):
        write(PRODUCT, 3, None, 0, tmp_path, "png")
    write(PRODUCT, 3, None, 0, tmp_path / "o", "webp")
    with pytest.raises(UserError, match=r"holds images of another seed \(0\)"):
        write(PRODUCT, 3, None, 1, tmp_path / "o", "webp")


@pytest.mark.parametrize("junk", ["", "{", "[]", "7", "{}", '{"batches": null}'])
def test_a_folder_whose_note_is_junk_is_one_line(junk: str, tmp_path: Path) -> None:
    (tmp_path / "generated.json").write_text(junk)
    with pytest.raises(UserError, match=r"generated\.json: does not say what was generated here; name another folder"):
        begun(tmp_path, {"seed": 0})


def test_the_recipes_post_processing_comes_along(market: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also `reject`, which compares with real images: they and the judge are part of the version."""
    steps = [{"do": "reject", "by": "quality", "share": 0.2}, {"do": "upscale", "factor": 2, "filter": "nearest"}]
    market.edit(lambda p: p["recipes"]["fair"]["postprocess"].update(steps=steps))
    market.check("dvc", "repro", "evaluate@fair")
    assert "is the champion" in market.check("aigc", "promote", "fair")
    monkeypatch.chdir(market.path)
    images, labels = generate(PRODUCT, 20, "4")
    assert images.shape == (20, 1, 16, 16)
    assert set(labels) == {4}


def test_a_version_that_other_code_made_is_one_line(live: Project) -> None:
    version = live.mlflow().get_model_version_by_alias(PRODUCT, "champion")
    model = version.source.removeprefix("models:/")
    (weights,) = live.path.glob(f"mlruns/artifacts/*/models/{model}/artifacts/artifacts/product/model.safetensors")
    save_file({name: values.flatten() for name, values in load_file(weights).items()}, weights)
    said = error(live.run("aigc", "generate", PRODUCT, "--out", "lost").stderr)
    assert said.startswith(f"error: {PRODUCT} version 2 cannot be loaded by the code as it is now (")
    assert said.endswith("delete the version in MLflow: the product goes on without it")


NEEDED_BY_A_STAGE = (
    "dvc", "prefect", "ruamel", "optuna", "matplotlib", "sklearn", "torchvision", "scipy", "torchmetrics", "jinja2",
)  # fmt: skip


def test_files_that_the_store_has_lost_are_named_with_their_mend(live: Project) -> None:
    """Some of them, then all: as by `mlflow gc`, or in a copy that is not whole."""
    version = live.mlflow().get_model_version_by_alias(PRODUCT, "champion")
    place = next(live.path.glob(f"mlruns/artifacts/*/models/{version.source.removeprefix('models:/')}/artifacts"))
    (place / "artifacts/product/model.safetensors").unlink()
    said = error(live.run("aigc", "generate", PRODUCT, "--out", "lost").stderr)
    assert said.startswith(f"error: {PRODUCT} version 2: model.safetensors missing in ")
    assert "put back what was deleted there, or delete the version and its model in MLflow" in said
    done = live.run("aigc", "verify", PRODUCT)
    assert done.returncode == 1
    assert "its files are not whole: model.safetensors missing" in done.stdout
    shutil.rmtree(place)
    said = error(live.run("aigc", "generate", PRODUCT, "--out", "lost").stderr)
    assert "are not in the store; put them back at " in said


@pytest.mark.parametrize("rejecting", [False, True])
def test_what_a_model_makes_needs_neither_checkout_nor_store(
    rejecting: bool, settled_market: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no package beside those that the served model asks for, also where samples are chosen by a judge."""
    monkeypatch.chdir(settled_market.path)
    root = served.root(registry.find(PRODUCT)[1])
    folder = tmp_path / "product"
    shutil.copytree(root / "artifacts/product", folder)
    if rejecting:
        steps = [{"do": "reject", "by": "quality", "share": 0.3}, {"do": "reject", "by": "copies", "share": 0.1}]
        (folder / "postprocess.json").write_text(json.dumps({"steps": steps}))
        shutil.copytree("data/features/digits", folder / "reference/judge")
        for split in ("train", "val"):
            shutil.copy(f"data/clean/digits/{split}.npy", folder / "reference")
    code = str(root / "code")
    program = f"""
import sys
for name in {NEEDED_BY_A_STAGE}:
    sys.modules[name] = None
sys.path.insert(0, {code!r})
from pathlib import Path
from aigc_tasks import product
assert product.__file__.startswith({code!r})
print(product.Maker(Path({str(folder)!r})).images(4)[0].shape)
"""
    command, env = ["python", "-c", program], settled_market.env
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["(4, 1, 8, 8)"], done.stderr


def test_a_label_where_there_are_no_classes() -> None:
    maker = object.__new__(product.Maker)
    maker.card = type("Card", (), {"classes": []})()
    with pytest.raises(UserError, match="this model knows no classes; omit it"):
        maker.number("cat")
