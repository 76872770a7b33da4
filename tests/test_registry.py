"""The ledger of a product, and the criteria of its gate, by known values."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from scipy import stats

from aigc_tasks import tracking
from aigc_tasks.errors import UserError
from aigc_tasks.evaluate import confidence
from aigc_tasks.promote import Gate, gate, overview, registry
from aigc_tasks.promote.decision import Criterion, Decision
from aigc_tasks.promote.gate import Measured
from aigc_tasks.promote.registry import Event, Product, Standing

KINDS = ["challenge", "promote", "refuse", "rollback"]


def event(kind: str, version: int, champion: int | None) -> Event:
    return Event(1, kind, version, champion, "", "2026-01-01T00:00:00+00:00")  # type: ignore[arg-type]


def told(*events: Event) -> Standing:
    standing = Standing()
    for one in events:
        standing = standing.after(one)
    return standing


def test_a_history_adds_up() -> None:
    first = [event("challenge", 1, None), event("promote", 1, None), event("challenge", 2, 1), event("promote", 2, 1)]
    standing = told(*first)
    assert (standing.champion, standing.previous, standing.challenger) == (2, 1, None)
    standing = told(*first, event("challenge", 3, 2), event("refuse", 3, 2))
    assert (standing.champion, standing.previous, standing.challenger) == (2, 1, 3)
    standing = told(*first, event("rollback", 2, 2))
    assert (standing.champion, standing.previous, standing.refuge) == (1, 2, None)
    standing = told(*first, event("promote", 3, 2), event("rollback", 3, 3), event("rollback", 2, 2))
    assert (standing.champion, standing.previous, standing.rolled_back) == (1, 2, {2, 3})


def test_a_champion_is_so_since_it_took_or_got_back_its_place() -> None:
    first = [event("challenge", 1, None), event("promote", 1, None), event("promote", 2, 1)]
    assert registry.crowned(first[:1]) is None
    assert registry.crowned([*first, event("promote", 3, 1), event("refuse", 2, 2)]) is first[-1]
    rollback = event("rollback", 2, 2)
    assert registry.crowned([*first, rollback, event("challenge", 1, 1)]) is rollback


def test_of_two_decisions_against_the_same_champion_the_first_counts() -> None:
    standing = told(event("promote", 1, None), event("promote", 2, 1), event("promote", 3, 1))
    assert (standing.champion, standing.previous) == (2, 1)
    assert told(event("promote", 1, None), event("rollback", 1, 2)).champion == 1


def test_a_version_that_is_champion_twice_is_rolled_back_once_and_for_all() -> None:
    """As where data go back to what they were, by which the older one is the better."""
    twice = [event("promote", 1, None), event("promote", 2, 1), event("promote", 1, 2)]
    assert told(*twice).refuge == 2
    standing = told(*twice, event("rollback", 1, 1))
    assert (standing.champion, standing.previous, standing.refuge) == (2, 1, None)
    standing = told(*twice, event("delete", 2, 1))
    assert (standing.champion, standing.previous, standing.refuge) == (1, None, None)


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 4), st.none() | st.integers(1, 4)), max_size=30))
def test_whatever_is_in_the_ledger_there_is_at_most_one_champion(history: list[tuple[str, int, int | None]]) -> None:
    standing = told(*(event(*one) for one in history))
    assert standing.champion is None or standing.champion in standing.reigns
    promoted = {version for kind, version, _ in history if kind == "promote"}
    assert set(standing.reigns) <= promoted
    assert standing.refuge is None or standing.refuge in standing.reigns[:-1]


@pytest.fixture
def product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Product:
    """With four versions."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    client = tracking.open_client()
    made = Product(client, "numbers")
    with made.changing():
        for _ in range(4):
            source = f"models:/{client.create_logged_model('0').model_id}"
            client.create_model_version("numbers", source, tags={tracking.IDENTITY: "one of ours"})
    return made


def aliases(product: Product) -> dict[str, int]:
    return {alias: int(version) for alias, version in product.model().aliases.items()}


def test_aliases_follow_the_ledger(product: Product) -> None:
    assert product.record("challenge", 1, None, "")
    assert aliases(product) == {"challenger": 1}
    assert product.record("promote", 1, None, "")
    assert product.record("promote", 2, 1, "")
    assert aliases(product) == {"champion": 2, "previous": 1}
    product.client.set_registered_model_alias("numbers", "champion", "4")
    product.client.delete_registered_model_alias("numbers", "previous")
    with product.changing():
        assert aliases(product) == {"champion": 2, "previous": 1}


def test_a_decision_that_was_overtaken_says_so_and_moves_nothing(product: Product) -> None:
    """As from another machine: nothing but the store is shared."""
    other = Product(MlflowClient(tracking.tracking_uri()), "numbers")
    assert product.record("promote", 1, None, "")
    assert other.record("promote", 2, 1, "better")
    assert not product.record("promote", 3, 1, "better, too")
    assert aliases(product) == {"champion": 2, "previous": 1}
    assert [one.version for one in product.ledger()] == [1, 2, 3], "it stays in the history"


def test_a_version_that_somebody_deletes_leaves_the_others_in_order(product: Product) -> None:
    for version, champion in ((1, None), (2, 1), (3, 2)):
        assert product.record("promote", version, champion, "")
    product.record("refuse", 4, 3, "")
    for gone in ("4", "3"):
        product.client.delete_model_version("numbers", gone)
    with product.changing():
        assert aliases(product) == {"champion": 2, "previous": 1}
    assert [(one.kind, one.version) for one in product.ledger()][-2:] == [("delete", 3), ("delete", 4)]
    assert product.record("promote", 1, 2, "again")


def test_what_is_added_after_events_were_deleted_comes_last(product: Product) -> None:
    for version, champion in ((1, None), (2, 1), (3, 2)):
        product.record("challenge", version, champion, "")
        assert product.record("promote", version, champion, "")
    tags = product.model().tags
    for key in sorted(key for key in tags if '"challenge"' in tags[key]):
        product.client.delete_registered_model_tag("numbers", key)
    assert product.record("rollback", 3, 3, "")
    assert product.record("rollback", 2, 2, "")
    assert aliases(product) == {"champion": 1, "previous": 2}


@pytest.mark.slow
def test_the_ledgers_in_the_database_are_those_that_mlflow_gives(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, champion in ((1, None), (2, 1)):
        assert product.record("promote", version, champion, "Ü%_*")
    read = registry.ledgers()
    assert [(one.kind, one.version, one.reason) for one in read["numbers"]] == [
        ("promote", 1, "Ü%_*"),
        ("promote", 2, "Ü%_*"),
    ]
    monkeypatch.setattr(tracking, "store", lambda: None)  # as if a server kept them
    assert registry.ledgers() == read


def test_what_others_have_registered_is_left_alone(product: Product) -> None:
    client = product.client
    client.create_registered_model("theirs")
    client.create_model_version("theirs", f"models:/{client.create_logged_model('0').model_id}")
    client.set_registered_model_alias("theirs", "champion", "1")
    assert registry.ledgers() == {}
    with (
        pytest.raises(UserError, match="'theirs' has versions that `aigc promote` did not make"),
        Product(client, "theirs").changing(),
    ):
        pass
    with pytest.raises(UserError, match="theirs version 1 was not made by `aigc promote`"):
        registry.find("theirs")
    with pytest.raises(UserError, match="'theirs' has no history; its versions were not made by `aigc promote`"):
        overview.products("theirs")
    assert client.get_registered_model("theirs").aliases == {"champion": 1}


def test_a_version_of_others_in_a_product_of_ours_stands_in_nobodys_way(product: Product) -> None:
    assert product.record("promote", 1, None, "")
    assert product.record("promote", 2, 1, "")
    client = product.client
    client.create_model_version("numbers", f"models:/{client.create_logged_model('0').model_id}")
    client.set_registered_model_alias("numbers", "champion", "5")
    with product.changing():
        assert product.record("rollback", 2, 2, "bad")
    assert aliases(product) == {"champion": 1, "previous": 2}
    with pytest.raises(UserError, match="numbers version 5 was not made by `aigc promote`"):
        registry.find("numbers@5")


def test_the_champion_is_the_ledgers_whatever_became_of_the_alias(product: Product) -> None:
    assert product.record("promote", 1, None, "")
    assert product.record("promote", 2, 1, "")
    product.client.set_registered_model_alias("numbers", "champion", "4")
    assert registry.find("numbers")[1].version == 2
    product.client.delete_registered_model_alias("numbers", "champion")
    assert registry.find("numbers@champion")[1].version == 2
    product.client.delete_model_version("numbers", "2")
    assert registry.find("numbers")[1].version == 1
    assert [one.kind for one in product.ledger()] == ["promote", "promote"], "to look changes nothing"
    product.client.delete_model_version("numbers", "1")
    product.client.set_registered_model_alias("numbers", "champion", "4")  # which was never promoted
    with pytest.raises(UserError, match="numbers has no version 'champion'; it has no alias yet, and 1 to 4"):
        registry.find("numbers")


def test_to_look_waits_for_nobody_and_to_change_waits_with_a_word(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    """A promotion may judge for minutes, with the product as its own."""
    product.record("promote", 1, None, "")

    def change() -> None:
        with product.changing():
            product.record("rollback", 1, 1, "")

    with ThreadPoolExecutor(1) as pool:
        with product.changing():
            product.client.delete_registered_model_alias("numbers", "champion")
            product.mend()
            assert aliases(product) == {}, "whoever is changing it will see to them"
            waiting = pool.submit(change)
            while "waiting for the command that is changing numbers" not in capsys.readouterr().out:
                assert not waiting.done()
        waiting.result()
    assert aliases(product) == {"previous": 1}
    product.client.delete_registered_model_alias("numbers", "previous")
    product.mend()
    assert aliases(product) == {"previous": 1}


def test_versions_are_found_by_alias_and_number(product: Product) -> None:
    product.record("promote", 3, None, "")
    assert product.version("champion").version == product.version("3").version
    assert registry.named("numbers") == ("numbers", "champion")
    assert registry.named("numbers@2") == ("numbers", "2")
    with pytest.raises(UserError, match=r"numbers has no version 'best'; it has champion, and 1 to 4"):
        product.version("best")
    product.client.create_registered_model("empty")
    with pytest.raises(UserError, match="empty has no version yet; first: aigc promote RECIPE"):
        registry.find("empty")
    with pytest.raises(UserError, match="'@champion' names no product; write for example digits@champion"):
        registry.find("@champion")
    with pytest.raises(UserError, match=r"there is no product 'number'; did you mean 'numbers'\?"):
        Product(product.client, "number").version("1")


def test_a_difference_beyond_chance_is_welchs() -> None:
    first, second = [0.20, 0.21, 0.19, 0.20, 0.205], [0.24, 0.23, 0.25, 0.245, 0.235]
    difference, low, high = confidence.of_difference(first, second)
    assert difference == pytest.approx(np.mean(first) - np.mean(second))
    errors = [np.var(some, ddof=1) / len(some) for some in (first, second)]
    freedom = sum(errors) ** 2 / sum(error**2 / (len(first) - 1) for error in errors)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(errors))
    assert (low, high) == pytest.approx((difference - half, difference + half))


def measured(*fids: float, classes: tuple[int, ...] = (0, 1, 2)) -> Measured:
    return Measured("key", list(fids), list(classes))


def test_better_means_beyond_chance() -> None:
    champion = measured(0.24, 0.23, 0.25)
    assert gate.better(measured(0.20, 0.21, 0.19), champion).holds
    close = gate.better(measured(0.20, 0.25, 0.26), champion)
    assert not close.holds
    assert "not better than the champion beyond chance" in close.reason
    assert "worse than the champion" in gate.better(measured(0.5, 0.51, 0.52), champion).reason
    assert gate.better(measured(9, 10, 11), None).holds


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 8), (1, 12), (3, 12)])
def test_a_champion_of_other_data_is_seen_in_their_size_and_colour(channels: int, side: int) -> None:
    """As where a recipe was given a data set of photographs in the place of scans, or the other way round."""
    samples = np.stack([np.full((channels, side, side), level, np.uint8) for level in (20, 200)])
    for shape in ((1, 8, 8), (3, 8, 8)):
        seen = gate.as_seen(samples, shape)
        assert seen.shape == (2, *shape)
        assert (seen[0] == 20).all()
        assert (seen[1] == 200).all()


def test_a_lost_class_is_named() -> None:
    names = ["cat", "dog", "owl"]
    assert gate.classes(measured(1, 1), [0, 1, 2], names).holds
    lost = gate.classes(measured(1, 1, classes=(0,)), [0, 1, 2], names)
    assert not lost.holds
    assert lost.reason == "it has lost the classes dog, owl"
    many = [str(number) for number in range(1000)]
    assert gate.classes(measured(1, 1, classes=(0,)), list(range(1000)), many).reason.endswith("and 989 more")


@pytest.mark.parametrize(("share", "holds"), [(0.0, True), (0.012, True), (0.4, False)])
def test_copies_are_told_from_chance(share: float, holds: bool) -> None:
    low, _ = confidence.wilson(share, 1000)
    figures = {"memorised_relative": share, "memorised_relative_low": low, "memorised_relative_floor": 0.01}
    criterion = gate.memorised({**figures, "val_images": 500})
    assert criterion.holds is holds
    assert holds or "40.0% of its samples are nearly training images" in criterion.reason


def test_bounds_are_on_both_sides_and_of_known_figures() -> None:
    figures = {"fid_ratio": 1.2, "recall": 0.7}
    bounds = Gate(at_most={"fid_ratio": 1.0}, at_least={"recall": 0.6})
    too_much, enough = gate.bounds(bounds, figures, "numbers")
    assert not too_much.holds
    assert too_much.reason == "fid_ratio is 1.2 and must be at most 1"
    assert enough.holds
    with pytest.raises(UserError, match=r"products.numbers.gate.at_least.recal: was not measured; there are fid_ratio"):
        gate.bounds(Gate(at_least={"recal": 0.6}), figures, "numbers")


def test_a_decision_comes_back_from_its_json() -> None:
    criteria = [
        Criterion("served", "the same", "the same", True),
        Criterion("fid", "at most 1", "2", False, "too much"),
    ]
    decision = Decision(3, 2, criteria)
    assert Decision.recalled(json.dumps(decision.content())) == decision
    assert not decision.passed
    assert decision.reason == "too much"
    assert "| fid | at most 1 | 2 | **no** |" in decision.table()
