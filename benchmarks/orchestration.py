"""What the layers cost: the flow against `dvc repro` against the stages' plain functions, on one recipe.

``python -m benchmarks.orchestration [--steps N] [--repeats N]`` works in copies of this checkout in a temporary folder
and prints a table. Every variant does the whole recipe from nothing, with a cache of its own; they take turns, so that
a machine that slows down slows all of them; the best of the repeats counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path

from ruamel.yaml import YAML

from aigc_tasks import servers

ROOT = Path(__file__).resolve().parents[1]
RECIPE, DATASET = "digits-gan", "digits"
PLAIN = f"""
import os
from aigc_tasks.acquire.__main__ import acquire
from aigc_tasks.clean.cleaning import clean
from aigc_tasks.features.judge import features
from aigc_tasks.train.training import train
from aigc_tasks.postprocess.sampling import postprocess
from aigc_tasks.evaluate.evaluation import evaluate
for function, name in ((acquire, "{DATASET}"), (clean, "{DATASET}"), (train, "{RECIPE}"), (postprocess, "{RECIPE}"),
                       (features, "{DATASET}"), (evaluate, "{RECIPE}")):
    function(name)
"""
VARIANTS = {
    "plain functions": [sys.executable, "-c", PLAIN],
    "dvc repro": ["dvc", "repro", "--quiet"],
    "flow": ["aigc", "run", RECIPE],
}
NOOP = f"from flows.pipeline import pipeline; pipeline('{RECIPE}')"


def checkout(folder: Path, steps: int) -> None:
    """This working tree without what it has made."""
    skip = shutil.ignore_patterns(".venv", ".aigc", "cache", "tmp", "raw", "clean", "features", "models", "samples")
    shutil.copytree(ROOT, folder, ignore=lambda at, names: skip(at, names) if "aigc_tasks" not in at else set())
    for made in (folder / "dvc.lock", *(folder / "mlruns").glob("*.db"), folder / "mlruns/anchor"):
        made.unlink(missing_ok=True)
    shutil.rmtree(folder / "reports", ignore_errors=True)
    shutil.rmtree(folder / "mlruns/artifacts", ignore_errors=True)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["recipes"][RECIPE]["train"]["steps"] = steps
    yaml.dump(params, folder / "params.yaml")


def timed(command: list[str], folder: Path, env: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        os.environ.update(PREFECT_HOME=f"{scratch}/prefect", DVC_SITE_CACHE_DIR=f"{scratch}/site")
        port = servers.free_port(0)
        with servers.prefect(port):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            env = {**os.environ, "PATH": path, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
            seconds: dict[str, float] = {}
            for repeat in range(arguments.repeats):
                for name, command in VARIANTS.items():
                    folder = Path(scratch, f"{name.replace(' ', '-')}-{repeat}")
                    checkout(folder, arguments.steps)
                    seconds[name] = min(seconds.get(name, float("inf")), timed(command, folder, env))
            for name, command in {
                "flow, nothing to do": [sys.executable, "-c", NOOP],
                "aigc run, nothing to do": VARIANTS["flow"],
            }.items():
                seconds[name] = min(timed(command, folder, env) for _ in range(3))
    print(f"| {RECIPE}, {arguments.steps} steps | seconds | to dvc repro |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.1f} | {value / seconds['dvc repro']:.2f} |")


if __name__ == "__main__":
    main()
