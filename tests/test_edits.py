"""Parameters and code that are edited while a stage is at work: nothing is recorded as made with what it was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TIMEOUT, Project, error, wait_for
from test_kills import checkpointed

from aigc_tasks import edits
from aigc_tasks.errors import UserError

SECTION = "params.yaml: recipes.digits-gan.train"


@pytest.mark.slow
def test_a_knob_edited_while_training_is_refused_and_put_back_costs_nothing(
    finished: Project, untrained: Project
) -> None:
    steps = finished.runs()[0].data.params["train.steps"]
    dvc = untrained.start("dvc", "repro", "train@digits-gan")
    wait_for(lambda: checkpointed(untrained), by=dvc)
    untrained.edit(lambda params: params["recipes"]["digits-gan"]["train"].update(steps=10))
    output, _ = dvc.communicate(timeout=TIMEOUT)
    assert dvc.returncode != 0
    assert error(output).startswith(f"error: {SECTION}: changed while train@digits-gan was at work")
    assert "train@digits-gan" not in untrained.lock()
    (run,) = untrained.runs()
    assert run.info.status == "FAILED"

    untrained.edit(lambda params: params["recipes"]["digits-gan"]["train"].update(steps=int(steps)))
    assert f"resumes after step {steps}" in untrained.check("dvc", "repro", "train@digits-gan")
    assert untrained.lock()["train@digits-gan"] == finished.lock()["train@digits-gan"]
    (run,) = untrained.runs()
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_an_edit_of_what_the_stage_does_not_read_disturbs_nothing(finished: Project, untrained: Project) -> None:
    dvc = untrained.start("dvc", "repro", "train@digits-gan")
    wait_for(lambda: checkpointed(untrained), by=dvc)
    untrained.edit(lambda params: params["recipes"]["digits-gan"].update(evaluate={"seed": 3}))
    with open(untrained.path / "aigc_tasks/cli.py", "a") as file:
        file.write("# a thought\n")
    dvc.communicate(timeout=TIMEOUT)
    assert dvc.returncode == 0
    assert untrained.lock()["train@digits-gan"] == finished.lock()["train@digits-gan"]


def other_steps(params: Any) -> None:
    params["recipes"]["digits-gan"]["train"]["steps"] = 7


def other_network(params: Any) -> None:
    params["recipes"]["digits-gan"]["network"] = "mlp"


def no_steps(params: Any) -> None:
    del params["recipes"]["digits-gan"]["train"]["steps"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_steps, SECTION),
        (other_network, "params.yaml: recipes.digits-gan.network"),
        (no_steps, SECTION),
    ],
)
def test_the_edited_entry_is_named(change: Callable[[Any], None], named: str, here: Project) -> None:
    check = edits.watch("train", "digits-gan")
    check()
    here.edit(change)
    with pytest.raises(UserError, match=f"^{named}"):
        check()


@pytest.mark.parametrize("path", ["aigc_tasks/families/gan.py", "aigc_tasks/train/loop.py"])
def test_the_edited_code_is_named(path: str, here: Project) -> None:
    check = edits.watch("train", "digits-gan")
    Path(path).write_text(Path(path).read_text())  # saved as it was
    check()
    Path(path).write_text("")
    with pytest.raises(UserError, match=path if "families" in path else "aigc_tasks/train: changed"):
        check()


def test_what_dvc_does_not_run_is_not_watched(here: Project) -> None:
    check = edits.watch("promote", "digits-gan")
    here.edit(other_steps)
    check()


def test_a_graph_that_its_user_has_extended_is_watched_as_well(here: Project) -> None:
    graph = Path("dvc.yaml").read_text()
    ours = "        - recipes.${key}.train\n"
    assert ours in graph
    Path("dvc.yaml").write_text(graph.replace(ours, f"        - other.yaml: [a]\n{ours}"))
    check = edits.watch("train", "digits-gan")
    check()
    here.edit(other_steps)
    with pytest.raises(UserError, match=f"^{SECTION}"):
        check()
