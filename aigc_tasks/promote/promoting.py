"""Promote and roll back: one event in the ledger each, with everything that led to it kept before."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aigc_tasks import layout, tracking
from aigc_tasks.card import read_card
from aigc_tasks.errors import UserError
from aigc_tasks.promote import served
from aigc_tasks.promote.decision import Decision
from aigc_tasks.promote.register import locked, mended, register, registered, run_of
from aigc_tasks.promote.registry import LONGEST, Product, Standing
from aigc_tasks.recipe import Recipe, recipe

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

ASKED = "gate.asked"  # tag: a hash of what was asked, for what has been decided need not be decided again
DECIDED = "gate.decision"  # tag: the last decision about it, as JSON
PROMOTED = "gate.promotion"  # tag: the one that made it champion


class Outcome(NamedTuple):
    """What became of a recipe's version."""

    product: str
    version: ModelVersion
    standing: Standing
    decision: Decision

    @property
    def promoted(self) -> bool:
        return self.standing.champion == int(self.version.version)


def promote(name: str) -> Outcome:
    """Register the recipe as it is now, and make it the champion if the gate lets it; raises ``UserError``."""
    settings = recipe(name)
    product = product_of(settings)
    with product.changing():
        for number in product.standing().concerned:  # of which one may be what the recipe has made
            mended(product.version(str(number)))
        version = register(product, settings)
        while True:  # until no decision of somebody else, on another machine, came first
            standing, version = product.standing(), product.version(str(version.version))
            outcome = before(product, settings, version, standing)
            if outcome is not None:
                return outcome
            decision = decided(product, settings, version, standing)
            event = product.record(
                "promote" if decision.passed else "refuse", decision.version, standing.champion, decision.reason
            )
            if event:
                return Outcome(product.name, version, product.standing(), decision)


def product_of(settings: Recipe) -> Product:
    if settings.product is None:
        where = f"params.yaml: recipes.{settings.name}.product"
        raise UserError(f"{where}: missing; add `product: NAME`, the one that it is to compete for")
    return Product(tracking.open_client(), settings.product.name)


def untracked(name: str) -> str | None:
    """Why the recipe as it is cannot be registered here: MLflow's store has no run of it. None where it has."""
    settings = recipe(name)
    try:
        run_of(tracking.open_client(), settings, read_card(layout.model(name)).fingerprint)
    except UserError as error:
        return str(error)
    return None


def known(name: str) -> Outcome | None:
    """What has been decided about a recipe that is up to date, if it has been; changes nothing."""
    settings = recipe(name)
    product = product_of(settings)
    if product.found() is None:
        return None
    version = registered(product, settings, locked(settings))
    return None if version is None else before(product, settings, version, product.standing())


def before(product: Product, settings: Recipe, version: ModelVersion, standing: Standing) -> Outcome | None:
    """The outcome if it is the champion, or was refused by the same gate against the same champion."""
    number, tags = int(version.version), version.tags
    events = [event for event in product.ledger() if event.version == number and event.kind != "challenge"]
    refused = bool(events) and events[-1].kind == "refuse" and tags.get(ASKED) == asked(settings, number, standing)
    if standing.champion == number:
        return Outcome(product.name, version, standing, recalled(version, PROMOTED))
    return Outcome(product.name, version, standing, recalled(version, DECIDED)) if refused else None


def recalled(version: ModelVersion, tag: str) -> Decision:
    """A decision that was kept on the version; the run has the last one, too, where somebody has deleted the tag."""
    if tag in version.tags:
        return Decision.recalled(version.tags[tag])
    name = f"gate/version-{version.version}.json"
    with tempfile.TemporaryDirectory() as scratch:
        kept = tracking.open_client().download_artifacts(str(version.run_id), name, scratch)
        return Decision.recalled(Path(kept).read_text())


def asked(settings: Recipe, number: int, standing: Standing) -> str:
    """A hash of the question: the gate, the champion, and whether the version was rolled back."""
    assert settings.product is not None
    gate = settings.product.knobs.gate.model_dump(mode="json")
    question = json.dumps([gate, standing.champion, number in standing.rolled_back], sort_keys=True)
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def decided(product: Product, settings: Recipe, version: ModelVersion, standing: Standing) -> Decision:
    """Let the gate judge, and keep what it says on the version and in the run: table, reason, both grids."""
    from aigc_tasks.promote import gate  # imports torch, which what is known already need not wait for

    number, client = int(version.version), product.client
    if standing.challenger != number:
        product.record("challenge", number, standing.champion, f"{settings.name} as it is now", settings.name)
    champion = None if standing.champion is None else product.version(str(standing.champion))
    decision, measured = gate.decide(settings, version, champion, number in standing.rolled_back)
    content = json.dumps(decision.content(), ensure_ascii=False)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pictures = {f"version {number}: {settings.name}": served.folder(version) / "grid.png"}
        if champion is not None:
            title = f"champion, version {champion.version}: {champion.tags['aigc.recipe']}"
            pictures[title] = served.folder(champion) / "grid.png"
        gate.draw(folder / f"version-{number}.png", pictures, decision)
        (folder / f"version-{number}.md").write_text(f"{decision.table()}\n\n{decision.reason}\n")
        (folder / f"version-{number}.json").write_text(content + "\n")
        client.log_artifacts(str(version.run_id), scratch, "gate")
    for one, found in measured.items():
        client.set_model_version_tag(product.name, one, gate.MEASURED, json.dumps(asdict(found)))
    tags = {DECIDED: content, ASKED: asked(settings, number, standing)}
    for key, value in (tags | ({PROMOTED: content} if decision.passed else {})).items():
        client.set_model_version_tag(product.name, str(number), key, value)
    return decision


def rollback(name: str, reason: str) -> Standing:
    """Give the champion's place back to the one before; raises ``UserError`` where there is none."""
    reason = " ".join(reason.split())[:LONGEST]  # the history has a line for every event
    if not reason:
        raise UserError("--reason: say why; it is kept in the product's history")
    product = Product(tracking.open_client(), name)
    product.model()
    with product.changing():
        standing = product.standing()
        if standing.champion is None or standing.refuge is None:
            there = f"version {standing.champion} is its champion" if standing.champion else "it has no champion"
            raise UserError(f"{name}: {there}, and there is none before it to go back to that was not rolled back")
        if not product.record("rollback", standing.champion, standing.champion, reason):
            raise UserError(f"{name}: another decision came first; look at it: aigc products")
        product.client.set_model_version_tag(name, str(standing.champion), "aigc.rolled_back", reason)
        return product.standing()


def verdict(outcome: Outcome) -> str:
    """The decision in a line."""
    version = outcome.version
    head = f"{outcome.product} version {version.version} ({version.tags['aigc.recipe']})"
    if outcome.promoted:
        return f"{head} is the champion: {outcome.decision.reason}"
    champion = outcome.standing.champion
    other = "there is no champion" if champion is None else f"version {champion} stays the champion"
    return f"{head} was refused and stays a challenger, {other}: {outcome.decision.reason}"


def told(outcome: Outcome) -> str:
    """The decision for a person: the verdict first, then every criterion."""
    rows = [(c.name, c.wanted, c.found, "holds" if c.holds else "NO") for c in outcome.decision.criteria]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([verdict(outcome), "", *lines])
