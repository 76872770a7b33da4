"""What history costs: looking and a retraining with nothing to do, before and after years of retraining.

``python -m benchmarks.growth [--recipes N] [--runs N]`` deploys N recipes of a copy of this checkout in a temporary
folder, trains one, gives what came out to all of them, and times four commands. Then it multiplies what is in the
databases of MLflow and Prefect, as if every recipe had been retrained for years (runs with parameters, tags and
figures; versions with their tags; two events in the ledger and one flow run for each), and times them again. The best
of three counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Iterable
from contextlib import chdir
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aigc_tasks import servers
from benchmarks.orchestration import RECIPE, checkout, timed

PRODUCTS = 5
AUTHOR = ["-c", "user.name=b", "-c", "user.email=b@localhost"]
COMMANDS = {
    "aigc list": ["aigc", "list"],
    "aigc status": ["aigc", "status"],
    "aigc products": ["aigc", "products"],
    "aigc retrain, nothing to do": ["aigc", "retrain", RECIPE],
}


def entries(recipes: int) -> list[tuple[str, str]]:
    """Each recipe's name and its product's."""
    others = [(f"recipe-{number:02}", f"product-{number % PRODUCTS}") for number in range(1, recipes)]
    return [(RECIPE, "product-0"), *others]


def describe(folder: Path, recipes: int) -> None:
    """So many recipes, all with a schedule, for a few products."""
    yaml = YAML()
    params = yaml.load((folder / "params.yaml").read_text())
    knobs = dict(params["recipes"][RECIPE], schedule={"cron": "0 3 * * *"})
    params["recipes"] = {name: {**knobs, "product": product} for name, product in entries(recipes)}
    params["products"] = {f"product-{number}": {} for number in range(PRODUCTS)}
    yaml.dump(params, folder / "params.yaml")


def multiply_results(folder: Path, recipes: list[tuple[str, str]]) -> None:
    """Every recipe has a model, samples and figures of its own, and ``dvc.lock`` knows them: copies of the first's."""
    lock = folder / "dvc.lock"
    stages = YAML(typ="safe").load(lock.read_text())["stages"]
    own = {target: json.dumps(entry) for target, entry in stages.items() if target.endswith(f"@{RECIPE}")}
    for name, _ in recipes[1:]:
        for kind in ("data/models", "data/samples", "reports"):
            shutil.copytree(folder / kind / RECIPE, folder / kind / name, dirs_exist_ok=True)
        stages |= {
            target.replace(RECIPE, name): json.loads(entry.replace(RECIPE, name)) for target, entry in own.items()
        }
    with open(lock, "w") as file:
        YAML(typ="safe").dump({"schema": "2.0", "stages": stages}, file)


def rows(database: sqlite3.Connection, table: str, where: str = "1") -> list[dict[str, Any]]:
    database.row_factory = sqlite3.Row
    return [dict(row) for row in database.execute(f"SELECT * FROM {table} WHERE {where}")]


def insert(database: sqlite3.Connection, table: str, new: Iterable[dict[str, Any]]) -> None:
    for row in new:
        marks = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def multiply_runs(path: Path, recipes: list[tuple[str, str]], each: int) -> None:
    """MLflow's database: as many runs and versions per recipe, with one event that asks and one that refuses."""
    database = sqlite3.connect(path, timeout=60)
    (run,) = rows(database, "runs")
    (version,) = rows(database, "model_versions")
    (model,) = rows(database, "registered_models")
    parts = {table: rows(database, table) for table in ("params", "tags", "latest_metrics")}
    tags = rows(database, "model_version_tags")
    with database:
        insert(
            database, "registered_models", ({**model, "name": one} for one in {p for _, p in recipes} - {model["name"]})
        )
        last = dict.fromkeys((product for _, product in recipes), 1)
        for name, product in recipes:
            for _ in range(each):
                own, fingerprint = uuid.uuid4().hex, uuid.uuid4().hex * 2
                new = {"aigc.recipe": name, "aigc.fingerprint": fingerprint}
                insert(database, "runs", [{**run, "run_uuid": own, "name": name}])
                for table, kept in parts.items():
                    insert(database, table, ({**row, "run_uuid": own, **value(row, new)} for row in kept))
                last[product] += 1
                which = {"name": product, "version": last[product]}
                insert(database, "model_versions", [{**version, **which, "run_id": own}])
                insert(database, "model_version_tags", ({**tag, **which, **value(tag, new)} for tag in tags))
                insert(database, "registered_model_tags", ledger(name, product, last[product]))
    database.close()


def value(row: dict[str, Any], new: dict[str, str]) -> dict[str, str]:
    return {"value": new[row["key"]]} if row.get("key") in new else {}


def ledger(recipe: str, product: str, version: int) -> list[dict[str, Any]]:
    found = []
    for kind in ("challenge", "refuse"):
        number = 10 + 2 * version + (kind == "refuse")
        event = {
            "number": number,
            "kind": kind,
            "version": version,
            "champion": None,
            "reason": "it is not better than the champion beyond chance",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": recipe,
        }
        found.append({"name": product, "key": f"aigc.ledger.{number:06d}.0", "value": json.dumps(event)})
    return found


def multiply_flow_runs(path: Path, recipes: list[tuple[str, str]], each: int) -> None:
    """Prefect's database: as many flow runs per deployment, one after the other into the past."""
    database = sqlite3.connect(path, timeout=60)
    flow = rows(database, "flow", "name = 'retrain'")[0]["id"]
    run = rows(database, "flow_run", f"flow_id = '{flow}' AND state_type = 'COMPLETED'")[0]
    state = rows(database, "flow_run_state", f"id = '{run['state_id']}'")[0]
    deployments = {one["name"]: one["id"] for one in rows(database, "deployment", f"flow_id = '{flow}'")}
    began = datetime.now(UTC)
    with database:
        for place, (name, _) in enumerate(recipes):
            for number in range(each):
                own, its_state = str(uuid.uuid4()), str(uuid.uuid4())
                when = (began - timedelta(minutes=place + len(recipes) * number)).strftime("%Y-%m-%d %H:%M:%S.%f")
                new = {"id": own, "name": name, "deployment_id": deployments[name], "state_id": its_state}
                times = dict.fromkeys(("start_time", "end_time", "expected_start_time", "created", "updated"), when)
                insert(database, "flow_run", [{**run, **new, **times, "idempotency_key": None}])
                insert(database, "flow_run_state", [{**state, "id": its_state, "flow_run_id": own, "timestamp": when}])
    database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", type=int, default=50)
    parser.add_argument("--runs", type=int, default=10_000)
    arguments = parser.parse_args()
    recipes, each = entries(arguments.recipes), arguments.runs // arguments.recipes
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        home = Path(scratch, "prefect")
        os.environ.update(PREFECT_HOME=str(home), DVC_SITE_CACHE_DIR=f"{scratch}/site")
        port, folder = servers.free_port(0), Path(scratch, "project")
        checkout(folder, 60)
        describe(folder, arguments.recipes)
        with servers.prefect(port):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            env = {**os.environ, "PATH": path, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
            commit = [["git", "add", "--all"], ["git", *AUTHOR, "commit", "--quiet", "-nm", "as it is"]]
            for command in (
                ["git", "init", "--quiet"],
                *commit,
                ["aigc", "deploy"],
                ["prefect", "work-pool", "create", "aigc", "--type", "process"],
                ["prefect", "--no-prompt", "deploy", "--all"],
                *commit,
                ["aigc", "retrain", RECIPE],
                ["git", *AUTHOR, "merge", "--quiet", f"retrain/{RECIPE}"],
                ["dvc", "checkout", "--allow-missing"],
            ):
                timed(command, folder, env)
            multiply_results(folder, recipes)
            for command in commit:
                timed(command, folder, env)
            before = {name: best(command, folder, env) for name, command in COMMANDS.items()}
            multiply_runs(folder / "mlruns/mlflow.db", recipes, each)
            multiply_flow_runs(home / "prefect.db", recipes, each)
            after = {name: best(command, folder, env) for name, command in COMMANDS.items()}
    print(f"| {arguments.recipes} recipes | first, s | after {arguments.runs:,} runs, s | ratio |\n|---|---|---|---|")
    for name, seconds in before.items():
        print(f"| {name} | {seconds:.1f} | {after[name]:.1f} | {after[name] / seconds:.2f} |")


def best(command: list[str], folder: Path, env: dict[str, str]) -> float:
    return min(timed(command, folder, env) for _ in range(3))


if __name__ == "__main__":
    main()
