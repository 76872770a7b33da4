"""Three recipes that compete for a product: one that is poor, one that is better, and one that is no good at all."""

from __future__ import annotations

import json
from typing import Any

from conftest import ROOT, Project
from ruamel.yaml import YAML

PRODUCT = "numbers"


def stock(params: Any) -> None:
    """``poor``, ``fair`` and ``bad``; each trains in seconds."""
    yaml = YAML()
    entry = yaml.load((ROOT / "recipes/digits-vae.yaml").read_text())["recipes"]["digits-vae"]
    params["recipes"] = {}
    for name, steps in (("poor", 150), ("fair", 400), ("bad", 1)):
        recipe = yaml.load(json.dumps(entry))
        recipe["product"] = PRODUCT
        recipe["train"] = {"steps": steps, "learning_rate": 3e-3, "checkpoint_every": 200, "picture_every": 200}
        recipe["postprocess"] = {"count": 300}
        params["recipes"][name] = recipe
    params["products"] = {PRODUCT: {"licence": "CC BY 4.0", "gate": {"at_most": {"fid_ratio": 500.0}}}}


def events(project: Project) -> list[tuple[str, int]]:
    """The ledger: what happened to which version."""
    tags = project.mlflow().get_registered_model(PRODUCT).tags
    found = [json.loads(tags[key]) for key in sorted(tags) if key.startswith("aigc.ledger.")]
    return [(event["kind"], event["version"]) for event in found]


def aliases(project: Project) -> dict[str, int]:
    return {name: int(one) for name, one in project.mlflow().get_registered_model(PRODUCT).aliases.items()}
