"""params.yaml: what is wrong is said in one line that names the file, the field and the mend."""

from __future__ import annotations

import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from archives import fill
from conftest import ROOT, Project
from dvc_data.hashfile.meta import Meta
from folders import TREE
from ruamel.yaml import YAML

from aigc_tasks import clean, families, knobs, layout, recipe
from aigc_tasks.clean import arrays
from aigc_tasks.errors import UserError

GONE = object()
GAN, DIGITS = "recipes.digits-gan", "datasets.digits"
WRONG = [
    (f"{GAN}.train.stepz", 3, "unknown key; did you mean 'steps'?"),
    (f"{GAN}.train.steps", "many", "expected a whole number, got 'many'"),
    (f"{GAN}.train.steps", "60", "expected a whole number, got '60'"),
    (f"{GAN}.train.steps", 1.5, "expected a whole number, got 1.5"),
    (f"{GAN}.train.batch", 0, "must be greater than 0, got 0"),
    (f"{GAN}.train.threads", 1025, "must be less than or equal to 1024, got 1025"),
    (f"{GAN}.train.clip", math.inf, "must be a finite number, got inf"),
    (f"{GAN}.postprocess.seed", 2**64, f"must be less than {2**63}, got {2**64}"),
    (f"{GAN}.evaluate.seed", 2**63, f"must be less than {2**63}, got {2**63}"),
    (f"{GAN}.train", [1], "expected keys and values, got [1]"),
    (f"{GAN}.model.conditional", "yes", "expected true or false, got 'yes'"),
    (f"{GAN}.model.objective", "wgan", "must be 'relativistic' or 'bce', got 'wgan'"),
    (f"{GAN}.trian", {}, "unknown key; did you mean 'train'?"),
    (f"{GAN}.evaluate", GONE, "missing; add `evaluate: {}` for the defaults"),
    (f"{GAN}.family", GONE, "missing; name one"),
    (f"{GAN}.dataset", "digit", "there is no 'digit'; did you mean 'digits'?"),
    (f"{GAN}.family", "gam", "there is no 'gam'; did you mean 'gan'?"),
    (f"{GAN}.network", "resnets", "there is no 'resnets'; did you mean 'resnet'?"),
    (f"{DIGITS}.acquire.kind", "digit", "there is no 'digit'; did you mean 'digits'?"),
    (f"{DIGITS}.acquire.source", "x", "unknown key; known are: kind"),
    (f"{DIGITS}.clean.val", 0.9, "must be less than 0.5, got 0.9"),
    ("recipes", 7, "expected names with their settings, got 7"),
]


def test_no_knob_has_a_name_that_dvcs_run_cache_overlooks() -> None:
    """It would bring back what was made with another value of it. The clean stage's are in its command, too."""
    unseen = {Meta.PARAM_SIZE, Meta.PARAM_NFILES}
    for module in ("clean", "features", "train", "postprocess", "evaluate"):
        import_module(f"aigc_tasks.{module}")
    for name in families.FAMILIES:
        families.load(name)
    kinds = [knobs.Knobs]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert kind is clean.Knobs or not unseen & kind.model_fields.keys(), kind


def put(params: Any, dotted: str, value: object) -> None:
    """Set, or remove, what stands at ``a.b.c``."""
    *way, last = dotted.split(".")
    for key in way:
        params = params[key]
    if value is GONE:
        del params[last]
    else:
        params[last] = value


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_a_wrong_setting_is_one_clear_line(here: Project, field: str, value: object, message: str) -> None:
    here.edit(lambda params: put(params, field, value))
    with pytest.raises(UserError) as error:
        recipe.recipe("digits-gan")
    assert str(error.value).startswith(f"params.yaml: {field}: {message}")
    assert "\n" not in str(error.value)


def test_a_knob_of_a_section_without_any_is_said_to_be_too_much() -> None:
    with pytest.raises(UserError, match=r"^options\.guidance: unknown key; there are none here; omit it$"):
        knobs.validated(families.Family.Sampling, {"guidance": 2.0}, "options")


def test_an_empty_table_says_how_to_fill_it(here: Project) -> None:
    here.edit(lambda params: put(params, "recipes", GONE))
    with pytest.raises(UserError, match="none is in use; `aigc add NAME` takes one"):
        recipe.recipe("digits-gan")


def test_every_wrong_setting_is_named_at_once(here: Project) -> None:
    here.edit(lambda p: p["recipes"]["digits-gan"]["train"].update(stepz=3, batch="big"))
    with pytest.raises(UserError, match="stepz") as error:
        recipe.recipe("digits-gan")
    assert "train.batch" in str(error.value)


def test_a_file_that_is_not_yaml_is_named_with_its_line(here: Project) -> None:
    Path("params.yaml").write_text("recipes:\n  a: [1\n  b: 2\n")
    with pytest.raises(UserError, match=r"params.yaml: line \d is not YAML"):
        recipe.names()


@pytest.mark.parametrize("date", ["2024-01-01", "2024-99-99"])
def test_a_date_is_no_text_and_its_line_is_named(here: Project, date: str) -> None:
    here.edit(lambda p: p["datasets"]["digits"].update(acquire={"kind": "folder", "source": date}))
    params = Path("params.yaml").read_text()
    assert f"'{date}'" in params
    assert recipe.dataset("digits").acquire.source == date  # type: ignore[attr-defined]
    Path("params.yaml").write_text(params.replace(f"'{date}'", date))
    done = here.run("aigc", "list")
    assert re.fullmatch(
        rf"error: params.yaml: line \d+ is not YAML: {date} counts as a date .* quotes; .*\n", done.stderr
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"recipes:\n  caf\xe9: {}\n", "params.yaml: line 2 is not UTF-8; save the file as UTF-8"),
        (b"recipes:\n  a: {}\n  b\0: {}\n", "params.yaml: line 3: U+0000 is no character of YAML; remove it"),
    ],
)
def test_a_file_that_is_not_text_is_named_with_its_line(here: Project, content: bytes, message: str) -> None:
    Path("params.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        recipe.names()
    assert str(error.value) == message


@pytest.mark.parametrize("table", ["recipes", "datasets", "products"])
def test_a_number_as_a_name_is_one_clear_line(here: Project, table: str) -> None:
    here.edit(lambda params: params.setdefault(table, {}).update({2024: {}}))
    with pytest.raises(UserError, match=rf'^params.yaml: {table}.2024: .* put it in quotes, `"2024":`, or begin it'):
        recipe.names()
    here.edit(lambda params: params[table].update({"2024": params[table].pop(2024)}))
    assert recipe.recipe("digits-gan").name == "digits-gan"


def test_a_broken_recipe_does_not_stop_the_others(here: Project) -> None:
    here.edit(lambda p: p["recipes"].update(other={"dataset": "nowhere"}))
    assert recipe.recipe("digits-gan").name == "digits-gan"


def test_exponents_are_numbers_for_us_and_for_dvc(here: Project) -> None:
    """YAML 1.1 reads 2e-4 as text; what DVC tracks and what we train with must be the same number."""
    from dvc.repo import Repo

    text = Path("params.yaml").read_text().replace("steps: 60", "steps: 60\n      learning_rate: 2e-4", 2)
    Path("params.yaml").write_text(text)
    here.edit(lambda p: p["datasets"]["digits"].update(features={"steps": 60}))
    assert recipe.recipe("digits-gan").train.learning_rate == 2e-4
    (stage,) = Repo().stage.collect("train@digits-gan")
    tracked = next(dep for dep in stage.deps if "params" in str(dep)).get_hash().value
    assert tracked["recipes.digits-gan.train"]["learning_rate"] == 2e-4


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_ready_made_recipe_is_valid_and_named_as_its_file(path: Path, here: Project) -> None:
    """Those of a folder with the source that the user names."""
    here.edit(lambda p: p.update(recipes={}))
    offer = YAML(typ="safe").load(path.read_text())
    folders = [entry for entry in offer["datasets"].values() if entry["acquire"]["kind"] == "folder"]
    here.check("aigc", "add", path.stem, *(["--source", "photographs"] if folders else []))
    assert recipe.names() == [path.stem]
    assert recipe.recipe(path.stem).family_name in path.stem


def test_adding_a_recipe_keeps_comments_and_order(here: Project) -> None:
    before = layout.PARAMS.read_text()
    done = here.run("aigc", "add", "mnist-mlpgan")
    assert done.returncode == 0, done.stderr
    after = layout.PARAMS.read_text()
    assert recipe.names() == ["digits-gan", "mnist-mlpgan"]
    assert [line for line in before.splitlines() if line not in after.splitlines()] == []
    assert "# generator 100-256-512-1024-784" in after.replace("256 #", "#")
    again = here.run("aigc", "add", "mnist-mlpgan")
    assert again.returncode == 1
    assert "is in use already" in again.stderr


def test_a_recipe_of_a_dataset_that_is_in_use_keeps_the_users_dataset(here: Project) -> None:
    here.edit(lambda p: p.update(recipes={}))
    here.check("aigc", "add", "digits-gan")
    assert recipe.dataset("digits").features.steps == 60


OFFER = {
    "datasets": {"pics": {"acquire": {"kind": "folder"}, "clean": {"size": 16}, "features": {}}},
    "recipes": {
        "pics-gan": {"dataset": "pics", "family": "gan", "network": "resnet"}
        | {section: {} for section in ("model", "train", "postprocess", "evaluate")}
    },
}


def offered(project: Project) -> None:
    """A ready-made recipe whose data only its user has, and a second one of the same data set."""
    yaml = YAML()
    yaml.dump(OFFER, project.path / "recipes/pics-gan.yaml")
    second = {"datasets": OFFER["datasets"], "recipes": {"pics-other": OFFER["recipes"]["pics-gan"]}}
    yaml.dump(second, project.path / "recipes/pics-other.yaml")


def refused(project: Project, *command: str) -> str:
    """The one line with which the command ends."""
    before = (project.path / "params.yaml").read_bytes()
    done = project.run("aigc", *command)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert (project.path / "params.yaml").read_bytes() == before
    return done.stderr


@pytest.mark.slow
def test_a_recipe_is_taken_with_the_place_of_its_data(here: Project, tmp_path: Path) -> None:
    offered(here)
    assert "say it: aigc add pics-gan --source PLACE" in refused(here, "add", "pics-gan")
    here.check("aigc", "add", "mnist-mlpgan", "--source", "~/mnist")
    assert recipe.dataset("mnist").acquire.model_dump()["source"] == "~/mnist"
    fill(tmp_path / "place", TREE)
    assert "datasets.pics" in here.check("aigc", "add", "pics-gan", "--source", "../place")
    assert recipe.dataset("pics").acquire.model_dump()["source"] == "../place"
    assert "in use already as ../place" in refused(here, "add", "pics-other", "--source", "elsewhere")
    assert here.check("aigc", "add", "pics-other").startswith("params.yaml: added recipes.pics-other;")
    here.check("dvc", "repro", "clean@pics")
    assert arrays.load(layout.clean("pics")).shape == (3, 16, 16)


def test_a_place_is_refused_where_the_data_set_has_none(here: Project) -> None:
    here.edit(lambda params: params.update(recipes={}, datasets={}))
    assert "is of kind digits, which has no source" in refused(here, "add", "digits-gan", "--source", "x")


def test_a_broken_offer_is_named_with_its_file(here: Project) -> None:
    offered(here)
    path = here.path / "recipes/pics-gan.yaml"
    path.write_text(path.read_text().replace("size: 16", "size: 1"))
    message = refused(here, "add", "pics-gan", "--source", "x")
    assert message.startswith("error: recipes/pics-gan.yaml: datasets.pics.clean.size: must be greater than or equal")


def test_a_name_that_no_file_could_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"datasets: {{{101 * 'a'}: {{}}}}")
    with pytest.raises(UserError, match=r"a name is made of a-z, 0-9, - and _, 100 of them at most; rename it"):
        recipe.dataset(101 * "a", tmp_path / "params.yaml")


@pytest.mark.parametrize("command", [["run", "digits-gam"], ["add", "mnist-mlpgam"]])
def test_a_wrong_name_is_one_line_and_an_exit_code(project: Project, command: list[str]) -> None:
    done = project.run("aigc", *command)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "did you mean" in done.stderr


def test_outside_a_project_the_mend_is_said(tmp_path: Path, env: dict[str, str]) -> None:
    done = Project(tmp_path, env).run("aigc", "list")
    assert done.returncode == 1
    assert "not in a project" in done.stderr
