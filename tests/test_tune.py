"""``aigc tune``: what can be searched, what a search leaves behind, and what a kill takes from it: nothing."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, Project
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ruamel.yaml import YAML

from aigc_tasks.errors import UserError
from aigc_tasks.families.diffusion import Diffusion
from aigc_tasks.recipe import Recipe, recipe
from aigc_tasks.space import changed, current, space, write

SEARCH = ("aigc", "tune", "digits-gan", "--trials", "3", "--steps", "60")
SEARCH += ("--knob", "train.learning_rate=2e-4:2e-3", "--knob", "model.penalty=0.01,0.5")


@pytest.fixture
def settings(here: Project) -> Recipe:
    return recipe("digits-gan")


def test_the_family_says_what_is_searched_by_default(settings: Recipe) -> None:
    assert space(settings, []) == {
        knob: FloatDistribution(low, high, log=True) for knob, (low, high) in sorted(settings.family.search.items())
    }


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("train.learning_rate=1e-4:1e-2", FloatDistribution(1e-4, 1e-2, log=True)),
        ("train.learning_rate=1e-3:2e-3", FloatDistribution(1e-3, 2e-3)),
        ("model.penalty=0:10", FloatDistribution(0, 10)),
        ("model.width=8:20", IntDistribution(8, 20)),
        ("train.batch=4:64", IntDistribution(4, 64, log=True)),
        ("model.width=8,16", CategoricalDistribution([8, 16])),
        ("model.objective=relativistic,bce", CategoricalDistribution(["relativistic", "bce"])),
        ("model.conditional=true,false", CategoricalDistribution([True, False])),
        ("postprocess.sampling.truncation=0.5:1.5", FloatDistribution(0.5, 1.5)),
    ],
)
def test_bounds_and_choices(settings: Recipe, given: str, meant: Any) -> None:
    knob = given.partition("=")[0]
    assert space(settings, [given]) == {knob: meant}


def test_whole_numbers_keep_to_the_multiples_that_a_knob_wants(settings: Recipe) -> None:
    diffusion = changed(settings, {}, "")
    object.__setattr__(diffusion, "family", Diffusion())
    object.__setattr__(diffusion, "sampling", Diffusion.Sampling())
    assert space(diffusion, ["model.width=4:64"]) == {"model.width": IntDistribution(4, 64, step=4)}


def test_batches_are_searched_that_can_be_taken_in_the_parts_asked_for(settings: Recipe) -> None:
    parts = changed(settings, {"train.accumulate": 4}, "")
    assert space(parts, ["train.batch=16:40"]) == {"train.batch": IntDistribution(16, 40, step=4)}
    for given in ("train.batch=16:42", "train.batch=16,42", "train.accumulate=4,5"):
        said = r"^--knob train: a batch of \d+ cannot be taken in [45] equal parts; change `batch` or `accumulate`$"
        with pytest.raises(UserError, match=said):
            space(parts, [given])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("train.learning_rat=1:2", "--knob train.learning_rat: unknown key; did you mean 'learning_rate'?"),
        (
            "learning_rate=1:2",
            "--knob learning_rate: there is no section 'learning_rate' to search; a knob is model.NAME",
        ),
        ("postprocess.count=1:2", "--knob postprocess.count: there is no section 'postprocess' to search"),
        ("postprocess.sampling.guidance=1:2", "--knob postprocess.sampling.guidance: unknown key"),
        ("train.learning_rate=0:1", "--knob train.learning_rate: must be greater than 0"),
        ("train.beta1=0.5:1", "--knob train.beta1: must be less than 1"),
        ("train.learning_rate=1e-2:1e-3", "the lower bound comes first"),
        ("train.batch=8:16.5", "--knob train.batch: expected a whole number, got 16.5"),
        ("train.batch=8", "--knob train.batch: expected low:high or different a,b,c"),
        ("train.batch=8,8", "--knob train.batch: expected low:high or different a,b,c"),
        ("train.batch=1:2:3", "--knob train.batch: expected low:high or different a,b,c"),
        ("train.batch", "--knob train.batch: expected bounds or values"),
        ("model.objective=bce:relativistic", "--knob model.objective: is not a number; name its values"),
        ("model.objective=bce,gan", "--knob model.objective: must be 'relativistic' or 'bce', got 'gan'"),
    ],
)
def test_a_wrong_knob_is_one_line_that_says_the_mend(settings: Recipe, given: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        space(settings, [given])
    assert "\n" not in str(error.value)


def test_the_command_says_what_is_wrong_before_it_works(project: Project) -> None:
    for arguments, said in {
        ("digits-gna",): "did you mean 'digits-gan'?",
        ("digits-gan", "--knob", "train.batch=0:4"): "--knob train.batch: must be greater than 0",
    }.items():
        done = project.run("aigc", "tune", *arguments)
        assert done.returncode == 1
        assert re.fullmatch(f"error: .*{re.escape(said)}.*\n", done.stderr), done.stderr
    assert not (project.path / ".aigc").exists() or not (project.path / ".aigc/tune").exists()


def test_only_the_winning_keys_are_written(here: Project) -> None:
    text = (here.path / "params.yaml").read_text()
    text = text.replace("width: 16 #", "width: 16 # mine:").replace("postprocess:", "postprocess: # mine, too")
    (here.path / "params.yaml").write_text(text)
    same = current(recipe("digits-gan"), "model.penalty")
    lines = write("digits-gan", {"train.learning_rate": 0.00123, "model.penalty": same, "model.width": 8})
    assert lines == [
        "params.yaml: recipes.digits-gan.train.learning_rate: 0.001 → 0.00123",
        "params.yaml: recipes.digits-gan.model.width: 16 → 8",
    ]
    now = (here.path / "params.yaml").read_text()
    assert "# mine:" in now
    removed = set(text.splitlines()) - set(now.splitlines())
    added = [line.strip() for line in now.splitlines() if line not in text.splitlines()]
    assert [line.split("#")[0].strip() for line in removed] == ["width: 16"]
    assert sorted(line.split("#")[0].strip() for line in added) == ["learning_rate: 0.00123", "width: 8"]
    assert write("digits-gan", {"model.width": 8}) == []
    assert (here.path / "params.yaml").read_text() == now


SHARING = """recipes:
  first: &first
    dataset: digits
    family: gan
    network: resnet
    model: {}
    train: &brief
      steps: 60 # brief
    postprocess: {}
    evaluate: {}
  second:
    <<: *first
  third:
    <<: *first
    train: *brief
"""


@pytest.mark.parametrize("winner", ["first", "second", "third"])
def test_what_recipes_share_changes_for_the_winner_alone(winner: str, here: Project) -> None:
    file = here.path / "params.yaml"
    file.write_text(file.read_text().replace("recipes:\n", SHARING, 1))
    write(winner, {"train.batch": 8, "postprocess.sampling.truncation": 0.5})
    for name in ("first", "second", "third"):
        found = recipe(name)
        changed = (8, 0.5) if name == winner else (32, 1.0)
        assert (found.train.steps, found.train.batch, found.sampling.truncation) == (60, *changed)


def test_a_sampling_knob_is_written_where_it_stands(here: Project) -> None:
    knob = "postprocess.sampling.truncation"
    assert current(recipe("digits-gan"), knob) == 1
    assert write("digits-gan", {knob: 0.9}) == [f"params.yaml: recipes.digits-gan.{knob}: 1.0 → 0.9"]
    assert current(recipe("digits-gan"), knob) == 0.9
    assert recipe("digits-gan").postprocess.count == 200, "what stood beside it is gone"


def runs(project: Project) -> tuple[Any, dict[str, Any]]:
    """The one parent run and its children by name."""
    (parent,) = (run for run in project.runs() if run.info.run_name == "tune digits-gan")
    children = [run for run in project.runs() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len({run.info.run_name for run in children}) == len(children)
    return parent, {run.info.run_name: run for run in children}


def values(project: Project) -> dict[str, float]:
    return {name: run.data.metrics["val_fid"] for name, run in runs(project)[1].items()}


def recipe_in(project: Project) -> Any:
    return YAML(typ="safe").load((project.path / "params.yaml").read_text())["recipes"]["digits-gan"]


@pytest.mark.slow
def test_a_search_is_recorded_written_once_and_survives_kill_9(untrained: Project, tmp_path: Path) -> None:
    killed = untrained.copied(tmp_path / "killed")
    before, text = recipe_in(untrained), (untrained.path / "params.yaml").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(untrained.path)
        start = {knob: str(current(recipe("digits-gan"), knob)) for knob in ("train.learning_rate", "model.penalty")}
    said = untrained.check(*SEARCH)

    parent, children = runs(untrained)
    found = values(untrained)
    assert sorted(children) == ["trial 0", "trial 1", "trial 2"]
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    assert {run.info.status for run in [parent, *children.values()]} == {"FINISHED"}
    assert children["trial 0"].data.params == start
    assert any(name.startswith("curves/") for name in children["trial 1"].data.metrics)
    assert len(re.findall(r"^trial \d .* val FID .* best .*\(trial \d\)$", said, re.M)) == 3
    best = min(found, key=lambda name: found[name])
    assert parent.data.metrics["val_fid"] == found[best]
    assert not (untrained.path / "data/models").exists()

    if best == "trial 0":
        assert "none of 3 trials is better" in said
        assert (untrained.path / "params.yaml").read_text() == text
    else:
        assert "→" in said
        after = recipe_in(untrained)
        changes = {f"{s}.{k}" for s in ("model", "train") for k in after[s] if after[s][k] != before[s].get(k)}
        won = children[best].data.params
        assert changes == {knob for knob in won if won[knob] != start[knob]}
        assert all(str(after[s][k]) == won[f"{s}.{k}"] for s, k in (knob.split(".") for knob in changes))
        assert {key: value for key, value in after.items() if key not in ("model", "train")} == {
            key: value for key, value in before.items() if key not in ("model", "train")
        }

    text = (untrained.path / "params.yaml").read_text()
    again = untrained.check(*SEARCH)
    assert not re.search(r"^trial \d .* best .*\(trial", again, re.M)
    assert (untrained.path / "params.yaml").read_text() == text
    assert values(untrained) == found

    for checkpoint in ("trial-1/checkpoint.safetensors", "trial-2/checkpoint.safetensors"):
        search = killed.start(*SEARCH)
        deadline = time.monotonic() + TIMEOUT
        while not list((killed.path / ".aigc/tune").rglob(checkpoint)):
            assert search.poll() is None, search.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        search.kill()
        search.communicate()
    assert "resumes after step" in killed.check(*SEARCH)
    assert values(killed) == found
    assert {run.info.status for run in killed.runs()} == {"FINISHED"}
    assert recipe_in(killed) == recipe_in(untrained)


@pytest.mark.slow
def test_a_trial_that_diverges_is_said_and_the_search_goes_on(untrained: Project) -> None:
    text = (untrained.path / "params.yaml").read_text()
    search = ("aigc", "tune", "digits-gan", "--trials", "3", "--steps", "40", "--knob", "train.learning_rate=1e8:1e9")
    said = untrained.check(*search)
    assert len(re.findall(r"^trial [12] failed: training diverged", said, re.M)) == 2, said
    assert "none of 3 trials is better" in said
    assert (untrained.path / "params.yaml").read_text() == text
    both = untrained.run("aigc", "tune", "digits-gan", "--steps", "5", "--knob", "train.steps=5:9")
    assert both.stderr == "error: --steps: train.steps is searched; omit one of the two\n"
    assert [runs(untrained)[1][f"trial {number}"].info.status for number in range(3)] == [
        "FINISHED",
        "FAILED",
        "FAILED",
    ]


@pytest.mark.slow
def test_a_recipe_that_changed_since_is_not_taken_for_measured(untrained: Project) -> None:
    """Its old figure would be called that of the recipe, and a winner over the old one be written over the new one."""
    search = ("aigc", "tune", "digits-gan", "--trials", "1", "--steps", "2", "--knob", "model.penalty=0.01:10")
    untrained.edit(lambda p: p["recipes"]["digits-gan"]["model"].update(penalty=0.5))
    untrained.check(*search)
    untrained.edit(lambda p: p["recipes"]["digits-gan"]["model"].update(penalty=0.25))
    said = untrained.run(*search).stderr
    assert re.fullmatch(
        r"error: \.aigc/tune/digits-gan/\w+: this search began with model\.penalty 0\.5; the recipe has model\.penalty "
        r"0\.25 now, which no trial has measured; put it back to go on, or remove that folder to search anew\n",
        said,
    ), said
    untrained.edit(lambda p: p["recipes"]["digits-gan"]["model"].update(penalty=0.5))
    assert "none of 1 trials is better" in untrained.check(*search)


@pytest.mark.slow
def test_few_validation_images_are_said_before_the_trials(untrained: Project) -> None:
    untrained.edit(lambda p: p["datasets"]["digits"].update(clean={"val": 0.02}))
    said = untrained.check("aigc", "tune", "digits-gan", "--trials", "1", "--steps", "2").splitlines()
    (doubt,) = [line for line in said if line.startswith("validation: few images (")]
    assert said.index(doubt) < min(number for number, line in enumerate(said) if line.startswith("trial 0 "))


@pytest.mark.slow
def test_ways_to_sample_are_searched_with_one_training(untrained: Project) -> None:
    search = ("aigc", "tune", "digits-gan", "--trials", "3", "--steps", "60")
    said = untrained.check(*search, "--knob", "postprocess.sampling.truncation=0.5,0.8,1.2")
    assert len(re.findall(r"^trial \d .* val FID .* best .*\(trial \d\)$", said, re.M)) == 3
    assert said.count("resumes after step 60") >= 1, "the second way trained again"
    assert len(set(values(untrained).values())) > 1
    assert not list((untrained.path / ".aigc/tune").rglob("checkpoint.safetensors"))
