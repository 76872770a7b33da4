"""Products: a version goes live only if the gate lets it, and everything that happened stays known."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import TIMEOUT, Project
from market import PRODUCT, aliases, events

from aigc_tasks import tracking
from aigc_tasks.promote import promoting, served

pytestmark = pytest.mark.slow


def test_the_better_one_is_champion_and_the_bad_one_is_refused_in_words(live: Project) -> None:
    assert aliases(live) == {"champion": 2, "previous": 1, "challenger": 3}
    assert events(live) == [
        ("challenge", 1), ("promote", 1), ("challenge", 2), ("promote", 2), ("challenge", 3), ("refuse", 3),
    ]  # fmt: skip
    said = live.check("aigc", "promote", "bad")
    assert f"{PRODUCT} version 3 (bad) was refused and stays a challenger, version 2 stays the champion: " in said
    assert re.search(r"it is worse than the champion: FID \S+ against \S+: \+", said)
    assert "it has lost the classes " in said
    assert re.search(r"no class lost +10 classes +\d of 10 +NO", said)
    assert len(events(live)) == 6, "what was decided is not decided again"


def test_the_decision_is_kept_on_the_version_and_in_the_run(live: Project) -> None:
    client = live.mlflow()
    version = client.get_model_version_by_alias(PRODUCT, "challenger")
    decision = json.loads(version.tags["gate.decision"])
    assert not decision["passed"]
    assert decision["champion"] == 2
    assert {criterion["name"] for criterion in decision["criteria"]} >= {"better than the champion", "served"}
    kept = [file.path for file in client.list_artifacts(version.run_id, "gate")]
    assert sorted(kept) == ["gate/version-3.json", "gate/version-3.md", "gate/version-3.png"]


def test_a_version_says_what_it_is(live: Project) -> None:
    version = live.mlflow().get_model_version_by_alias(PRODUCT, "champion")
    figures = json.loads((live.path / "reports/fair/quality.json").read_text())
    assert version.tags["aigc.recipe"] == "fair"
    assert float(version.tags["quality.fid_ratio"]) == pytest.approx(figures["fid_ratio"], rel=1e-3)
    assert version.tags["dvc.data/models/fair"] == live.hashes()["data/models/fair"]
    assert version.tags["git.commit"] == live.check("git", "rev-parse", "HEAD").strip()
    assert version.tags["git.dirty"] == "false"
    card = version.description
    assert card == (live.path / "reports/fair/model-card.md").read_text()
    for words in ("Licence: CC BY 4.0", "| FID |", "memorised", "## Limits", version.tags["git.commit"]):
        assert words in card
    run = live.mlflow().get_run(version.run_id)
    assert run.info.status == "FINISHED"
    history = live.mlflow().get_metric_history(version.run_id, "quality/fid")
    assert len({point.value for point in history}) == 1


def test_products_tells_what_is_live(live: Project) -> None:
    said = live.check("aigc", "products")
    for words in ("champion    version 2, fair: FID ", "challenger  version 3, bad", "previous    version 1, poor"):
        assert words in said
    assert "data digits version 1, the newest" in said
    assert "it is what `dvc repro` makes of data, code and parameters as they are now" in said
    live.edit(lambda p: p["recipes"]["fair"]["train"].update(seed=5))
    assert "have changed since: `aigc run fair` makes another one" in live.check("aigc", "products", PRODUCT)


def test_a_rollback_leads_to_the_one_before_and_is_no_seesaw(live: Project) -> None:
    assert live.run("aigc", "rollback", PRODUCT).returncode == 2, "a reason must be given"
    assert "version 1 is the champion again" in live.check("aigc", "rollback", PRODUCT, "--reason", "too\nsmooth ")
    assert aliases(live) == {"champion": 1, "previous": 2, "challenger": 3}
    assert "rollback  version 2  too smooth" in live.check("aigc", "products")
    refused = live.run("aigc", "rollback", PRODUCT, "--reason", "again")
    assert refused.returncode == 1
    assert "version 1 is its champion, and there is none before it to go back to" in refused.stderr
    said = live.check("aigc", "promote", "fair")
    assert "it was rolled back once; train anew" in said
    assert aliases(live)["champion"] == 1


def test_tags_that_somebody_deletes_are_put_back(live: Project) -> None:
    client = live.mlflow()
    whole = client.get_model_version(PRODUCT, "2").tags

    def lose(*tags: str) -> None:
        for tag in tags:
            client.delete_model_version_tag(PRODUCT, "2", tag)

    lose("aigc.recipe", "data.name", "quality.fid_ratio")
    assert "champion    version 2, fair: FID " in live.check("aigc", "products")
    assert client.get_model_version(PRODUCT, "2").tags == whole
    lose("aigc.identity", "aigc.files")
    said = live.check("aigc", "generate", PRODUCT, "--count", "2", "--out", "out")
    assert f"2 images by {PRODUCT} version 2 (fair)" in said
    lose("aigc.identity", "aigc.recipe", promoting.PROMOTED)
    assert "version 2 (fair) is the champion: it is better, and" in live.check("aigc", "promote", "fair")
    assert len(events(live)) == 6, "it was known, and not registered again"


def test_a_champion_of_older_data_is_measured_again(live: Project) -> None:
    live.edit(lambda p: p["datasets"]["digits"]["clean"].update(seed=1))  # other images are tested with
    live.edit(lambda p: p["recipes"]["fair"]["train"].update(steps=410))
    live.check("dvc", "repro", "evaluate@fair")
    said = live.check("aigc", "promote", "fair")
    assert re.search(r"better than the champion +a lower FID, beyond chance +FID \S+ against \S+: ", said)
    assert "data digits" in live.check("aigc", "products")


@pytest.mark.parametrize(
    ("change", "recipe", "words"),
    [
        (lambda p: p["recipes"]["fair"].pop("product"), "fair", "recipes.fair.product: missing; add `product: NAME`"),
        (lambda p: p["recipes"]["fair"]["train"].update(steps=9), "fair", "fair is not up to date (train@fair: "),
        (lambda p: None, "fare", "recipes: there is no 'fare'; did you mean 'fair'?"),
        (lambda p: p["products"][PRODUCT].update(gates={}), "fair", "gates: unknown key; did you mean 'gate'?"),
        (
            lambda p: p["products"][PRODUCT]["gate"]["at_most"].update(fit_ratio=1.0), "fair",
            f"products.{PRODUCT}.gate.at_most.fit_ratio: was not measured; there are ",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(change: Callable[[Any], Any], recipe: str, words: str, market: Project) -> None:
    market.edit(change)
    done = market.run("aigc", "promote", recipe)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_product_that_there_is_not(live: Project) -> None:
    for command in (["rollback", "nambers", "--reason", "x"], ["generate", "nambers", "--out", "o"]):
        done = live.run("aigc", *command)
        assert done.returncode == 1
        assert f"error: there is no product 'nambers'; did you mean '{PRODUCT}'?" in done.stderr
    assert (
        "has no version '9'; it has challenger, champion, previous, and 1 to 3"
        in live.run("aigc", "verify", f"{PRODUCT}@9").stderr
    )


class Killed(BaseException):
    """Nothing of ours catches it, as nothing catches SIGKILL."""


CHANGES = (
    "create_registered_model", "create_model_version", "set_registered_model_tag", "set_registered_model_alias",
    "delete_registered_model_alias", "set_model_version_tag", "log_artifacts",
)  # fmt: skip


def test_killed_between_any_two_steps_nothing_is_half_promoted(
    market: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every single change of the store in turn. How it is served has its own tests, and takes ten seconds."""
    from mlflow import MlflowClient

    monkeypatch.chdir(market.path)
    monkeypatch.setattr(served, "ask", lambda *_: served.Served(0.1, True))
    promoting.promote("poor")
    before = aliases(market)
    fuse = 0

    def burning(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
            nonlocal fuse
            fuse -= 1
            if fuse == 0:
                raise Killed
            return method(self, *arguments, **options)

        return call

    for name in CHANGES:
        monkeypatch.setattr(MlflowClient, name, burning(getattr(MlflowClient, name)))
    killed = 0
    while True:
        fuse = killed + 1
        try:
            outcome = promoting.promote("fair")
        except Killed:
            killed += 1
            fuse = 0
            assert aliases(market)["champion"] in (1, 2)
            if ("promote", 2) not in events(market):
                assert aliases(market)["champion"] == before["champion"], "decided by the ledger alone"
            continue
        break
    assert killed >= 6
    assert outcome.promoted
    assert aliases(market) == {"champion": 2, "previous": 1}
    assert [event for event in events(market) if event[0] != "challenge"] == [("promote", 1), ("promote", 2)]
    assert len(market.mlflow().search_model_versions(f"name='{PRODUCT}'")) == 2


def test_killed_for_real_the_next_command_sets_it_right(market: Project) -> None:
    market.check("aigc", "promote", "poor")
    promoting_fair = market.start("aigc", "promote", "fair", start_new_session=True)
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and len(events(market)) < 3 and promoting_fair.poll() is None:
        time.sleep(0.05)
    os.killpg(promoting_fair.pid, signal.SIGKILL)
    promoting_fair.wait()
    assert aliases(market)["champion"] == 1
    assert "version 2 (fair) is the champion" in market.check("aigc", "promote", "fair")
    assert aliases(market) == {"champion": 2, "previous": 1}


def test_two_at_once_end_in_one_champion_and_a_whole_history(market: Project) -> None:
    both = [market.start("aigc", "promote", recipe) for recipe in ("poor", "fair")]
    said = [one.communicate(timeout=TIMEOUT)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    decided = [event for event in events(market) if event[0] != "challenge"]
    assert len(decided) == 2
    assert decided[0][0] == "promote", "the first to come meets no champion"
    winner = {version.tags["aigc.recipe"] for version in market.mlflow().search_model_versions(f"name='{PRODUCT}'")}
    assert winner == {"poor", "fair"}
    champion = market.mlflow().get_model_version_by_alias(PRODUCT, "champion")
    assert champion.tags["aigc.recipe"] == "fair"


def test_the_flow_ends_with_the_gate(market: Project) -> None:
    said = market.check("aigc", "run", "fair")
    assert f"product   {PRODUCT} version 1 (fair) is the champion" in said
    assert aliases(market) == {"champion": 1}
    assert "fair is up to date: nothing to run" in market.check("aigc", "run", "fair")
    market.edit(lambda p: p["products"][PRODUCT]["gate"]["at_most"].update(fid_ratio=0.001))
    refused = market.check("aigc", "run", "poor")
    assert "was refused and stays a challenger" in refused
    assert "fid_ratio is" in refused


def test_what_is_served_is_what_was_measured(live: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(live.path)
    client = tracking.open_client()
    version = client.get_model_version_by_alias(PRODUCT, "champion")
    answer = served.ask(version, 16, 30)
    assert answer.same
    assert answer.trouble == ""
    folder = served.folder(version)
    code = folder.parents[1] / "served_model.py"
    code.write_text(code.read_text().replace("images.append(", "images.append(255 - "))
    assert not served.ask(version, 16, 30).same
    code.write_text("raise RuntimeError('worn out')")
    assert "Error: worn out." in served.ask(version, 16, 30).trouble


def test_a_checkout_without_the_run_is_up_to_date_and_promotes_nothing(market: Project) -> None:
    """As a clone is after `dvc pull`."""
    shutil.rmtree(market.path / "mlruns")
    assert "poor is up to date: nothing to run" in market.check("aigc", "run", "poor")
    done = market.run("aigc", "promote", "poor")
    assert done.returncode == 1
    assert "MLflow's store has no run of poor" in done.stderr


def test_the_flows_promote_and_generate_stand_alone(live: Project, prefect_api: str) -> None:
    live.env["PREFECT_API_URL"] = prefect_api
    program = """
from flows.generate import generate
from flows.promote import promote
known = promote("bad", return_state=True)
print("STATE", known.type.value, known.name, known.message)
print("MADE", generate("numbers", 5, "made"))
"""
    said = live.check("python", "-c", program)
    assert "STATE COMPLETED UpToDate numbers version 3 (bad) was refused and stays a challenger, version 2" in said
    assert "MADE 5 images by numbers version 2 (fair)" in said
    assert len(list((live.path / "made").glob("0*.png"))) == 5
    live.edit(lambda p: p["recipes"]["bad"]["train"].update(seed=3))
    said = live.check("python", "-c", program)
    assert "STATE FAILED" in said
    assert "bad is not up to date (train@bad: recipes.bad.train modified); first: aigc run bad" in said
