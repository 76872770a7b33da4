"""What generation costs: images per second of each family, and memory against the number of images.

``python -m benchmarks.generation RECIPE…`` takes the models that `dvc repro` has made in this checkout, writes images
as `aigc generate --format npy` does: a few, then many times as many. Beside it the bare sampler, one batch after the
other. All in one run; memory is the peak of a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from aigc_tasks import layout
from aigc_tasks.card import SETTINGS
from aigc_tasks.recipe import recipe

PROGRAM = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from aigc_tasks import generate, product
folder, out, count, bare = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "bare"
maker = product.Maker(folder)
maker.images(product.BATCH)
began = time.perf_counter()
if bare:
    for start in range(0, count, product.BATCH):
        maker.sampler.sample(np.zeros(min(product.BATCH, count - start), np.int64), start)
else:
    out.mkdir()
    for batch in maker.batches(count):
        generate.keep(out, batch, "npy", maker.card.classes, count)
rate = count / (time.perf_counter() - began)
print(json.dumps([rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def measured(folder: Path, count: int, way: str) -> tuple[float, float]:
    """Images per second, and peak memory in MiB."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-c", PROGRAM, str(folder), str(Path(scratch, "out")), str(count), way]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    rate, memory = json.loads(done.stdout.splitlines()[-1])
    return rate, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--few", type=int, default=1_024)
    parser.add_argument("--many", type=int, default=20_480)
    arguments = parser.parse_args()
    few, many = arguments.few, arguments.many
    print(f"| recipe | images/s | to the bare sampler | MiB for {few:,} | MiB for {many:,} |\n|---|---|---|---|---|")
    for name in arguments.recipes:
        settings = recipe(name)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "product")
            shutil.copytree(layout.model(name), folder)
            (folder / SETTINGS).write_text(settings.postprocess.model_dump_json())
            bare, _ = measured(folder, few, "bare")
            rate, little = measured(folder, few, "whole")
            _, much = measured(folder, many, "whole") if rate * 120 > many else (rate, float("nan"))
        print(f"| {name} | {rate:,.0f} | {rate / bare:.2f} | {little:.0f} | {much:.0f} |", flush=True)


if __name__ == "__main__":
    main()
