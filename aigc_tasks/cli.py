"""The command ``aigc``. Imports are inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from aigc_tasks import layout, stage
from aigc_tasks.errors import UserError

app = typer.Typer(
    help="Train, measure and keep generative models: DVC's graph, run by Prefect, recorded by MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Versions of a data set: list, compare, bring up to date.", no_args_is_help=True)
app.add_typer(data, name="data")


class Format(StrEnum):
    """How `generate` saves images."""

    png = "png"
    webp = "webp"
    npy = "npy"


RecipeName = Annotated[str, typer.Argument(help="a recipe of params.yaml, for example digits-gan")]
DatasetName = Annotated[str, typer.Argument(help="a data set of params.yaml, for example digits")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="the wanted one; if it is taken, the next free one")]


@contextmanager
def one_line_errors(recorded: bool = False) -> Iterator[None]:
    """Work in the project folder; end with one line and code 1 on an error that the user can mend.

    ``recorded`` is for what MLflow's records are needed for.
    """
    try:
        layout.enter_project()
        if recorded:
            from aigc_tasks import tracking

            tracking.refuse_dead()
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on where it was", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = stage.explain(error)
        if line is None:
            raise
        sys.exit(f"error: {line}")


@app.command()
def run(recipe: RecipeName) -> None:
    """Bring a recipe up to date: acquire, clean, train, postprocess, evaluate; what is up to date is skipped."""
    with one_line_errors(recorded=True):
        from aigc_tasks import graph, summary
        from aigc_tasks import recipe as recipes

        settings = recipes.recipe(recipe)
        targets = graph.targets(recipe, settings.dataset.name)
        if graph.busy() or graph.stale(targets) or undecided(settings):
            run_flow("pipeline", recipe)
            print()
        else:
            print(f"{recipe} is up to date: nothing to run\n")
        print(summary.result(recipe))


@app.command()
def retrain(recipe: RecipeName) -> None:
    """Acquire a recipe's data again, and train if it has changed; in a worktree of git, not in this checkout."""
    with one_line_errors(recorded=True):
        from aigc_tasks import recipe as recipes
        from aigc_tasks import retraining

        recipes.recipe(recipe)  # what is wrong there is said before a server starts
        print(f"\n{run_flow('retrain', recipe)}\n\n{retraining.found(recipe)}")


def undecided(settings: Any) -> bool:
    """Whether the gate of the recipe's product has yet to say what it thinks of the recipe as it is."""
    from aigc_tasks.promote import promoting

    if settings.product is None or promoting.known(settings.name) is not None:
        return False
    return promoting.untracked(settings.name) is None


def run_flow(name: str, recipe: str) -> str:
    """The flow, on the Prefect server that is configured or running, or on a temporary one; says how it ended.

    Raises ``UserError`` if it fails.
    """
    from aigc_tasks.servers import prefect_server

    with prefect_server():
        flow = getattr(import_module(f"flows.{name}"), name)
        state = flow(recipe, return_state=True)
    if not state.is_completed():
        raise UserError(state.message or state.name)
    return state.message


@app.command("list")
def list_recipes() -> None:
    """Recipes in use: up to date, stale and why, or never run; and the quality last measured."""
    with one_line_errors(recorded=True):
        from aigc_tasks import summary

        for line in summary.in_use():
            print(line)
        if offered := summary.offered():
            print(f"\nready-made, take one into use with `aigc add NAME`: {', '.join(offered)}")


@app.command()
def add(
    recipe: Annotated[str, typer.Argument(help="a ready-made recipe of recipes/, for example mnist-mlpgan")],
    source: Annotated[
        str | None, typer.Option(help="where its data set lies: a folder, an archive, an address")
    ] = None,
) -> None:
    """Take a ready-made recipe from recipes/ into params.yaml; comments and order are kept."""
    with one_line_errors():
        from aigc_tasks.catalogue import take

        added = take(recipe, source)
        print(f"{layout.PARAMS}: added {', '.join(added)}; next: aigc run {recipe}")


@app.command("add-data")
def add_data(
    name: Annotated[str, typer.Argument(help="what the data set is to be called: a-z, 0-9, - and _")],
    source: Annotated[
        str, typer.Argument(help="a folder, archive, Parquet file, shards, list of addresses, URL, or torchvision:NAME")
    ],
    labels: Annotated[str | None, typer.Option(help="CSV that names each file's class")] = None,
    size: Annotated[int | None, typer.Option(help="side of the square that images are resized and cropped to")] = None,
    kind: Annotated[str | None, typer.Option(help="kind of source, where a look does not tell it rightly")] = None,
) -> None:
    """Look at a source of images, say what is in it and write a data set for it into params.yaml."""
    stand = Path.cwd()
    with one_line_errors():
        from aigc_tasks.inspection import adding

        print(adding.add(name, source, stand, labels, size, kind))


@data.command("log")
def data_log(name: DatasetName) -> None:
    """The versions of a data set, newest first, and how to bring an old one back."""
    with one_line_errors():
        from aigc_tasks import versions

        print(versions.log(name))


@data.command("diff")
def data_diff(
    name: DatasetName,
    a: Annotated[int, typer.Argument(help="number of a version")],
    b: Annotated[int | None, typer.Argument(help="number of a later one (default: the newest)")] = None,
) -> None:
    """What differs between two versions of a data set: entries added, changed and removed, and the classes."""
    with one_line_errors():
        from aigc_tasks import versions

        print(versions.diff(name, a, b))


@data.command("update")
def data_update(name: DatasetName) -> None:
    """Acquire a data set again, taking in what was added, changed or removed since, and clean it."""
    with one_line_errors():
        from aigc_tasks import versions

        print(versions.update(name, print))


@app.command()
def drift(recipe: RecipeName) -> None:
    """Compare a recipe's data set as it is now with what its model was trained on: same, grown or drifted."""
    with one_line_errors():
        from aigc_tasks import drift as drifting

        print(drifting.drift(recipe))


@app.command()
def compare(recipes: Annotated[list[str], typer.Argument(help="two or more measured recipes")]) -> None:
    """Recipes side by side: figures with their intervals, and a picture of their samples."""
    with one_line_errors():
        from aigc_tasks import compare as comparison

        print(comparison.compare(recipes))


@app.command()
def tune(
    recipe: RecipeName,
    trials: Annotated[int, typer.Option(min=1, help="in all; the first is the recipe as it stands")] = 20,
    knob: Annotated[
        list[str] | None,
        typer.Option(help="train.learning_rate=1e-4:1e-2 or model.width=16,32, repeatable (default: the family's)"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="of a trial's training (default: the recipe's)")] = None,
) -> None:
    """Search knobs for validation quality and write what is better into params.yaml; goes on where it was stopped."""
    with one_line_errors(recorded=True):
        from aigc_tasks import recipe as recipes
        from aigc_tasks.space import space

        settings = recipes.recipe(recipe)
        searched = space(settings, knob or [])

        from aigc_tasks import tune as search  # imports torch: what is wrong above is said at once

        search.tune(settings, trials, searched, steps)


@app.command()
def promote(
    recipe: Annotated[str, typer.Argument(help="a recipe that names a product, for example digits-gan")],
) -> None:
    """Register a recipe's model as a version of its product; it becomes the champion if the gate lets it."""
    with one_line_errors(recorded=True):
        from aigc_tasks.promote import promoting

        print(promoting.told(promoting.promote(recipe)))


@app.command()
def rollback(
    product: Annotated[str, typer.Argument(help="a product, for example digits")],
    reason: Annotated[str, typer.Option(help="why; it is kept in the product's history")],
) -> None:
    """Give the champion's place back to the version before it."""
    with one_line_errors(recorded=True):
        from aigc_tasks.promote import promoting

        standing = promoting.rollback(product, reason)
        print(f"{product}: version {standing.champion} is the champion again")


@app.command()
def products(product: Annotated[str | None, typer.Argument(help="one, with all its history")] = None) -> None:
    """What is live: champion and challenger of every product, their quality, age, data and history."""
    with one_line_errors(recorded=True):
        from aigc_tasks.promote import overview

        print(overview.products(product))


@app.command()
def verify(
    address: Annotated[str, typer.Argument(help="digits@champion, digits@previous, digits@3")],
    retrain: Annotated[bool, typer.Option("--retrain", help="train again, too, and compare the bytes")] = False,
) -> None:
    """Prove where a version came from, link by link; ends with 1 if one does not hold, 2 if one cannot be checked."""
    with one_line_errors(recorded=True):
        from aigc_tasks.promote import proof

        code = proof.verify(address, retrain, lambda line: print(line, flush=True))
    sys.exit(code)


@app.command()
def generate(
    address: Annotated[str, typer.Argument(help="digits means its champion; digits@previous, digits@3")],
    out: Annotated[Path, typer.Option(help="a new or empty folder, or one to go on in")],
    count: Annotated[int, typer.Option(min=1, help="images")] = 64,
    label: Annotated[str | None, typer.Option(help="a class by its name (default: all of them)")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    form: Annotated[Format, typer.Option("--format")] = Format.png,
    option: Annotated[list[str] | None, typer.Option(help="a sampler's knob, evaluations=9 say, repeatable")] = None,
) -> None:
    """Make images with a product's version; goes on where it was stopped."""
    stand = Path.cwd()
    with one_line_errors(recorded=True):
        from aigc_tasks import generate as making

        print(making.write(address, count, label, seed, stand / out, form.value, making.options(option or [])))


@app.command()
def ui(mlflow_port: Port = 5000, prefect_port: Port = 4200) -> None:
    """Serve the MLflow UI and the Prefect UI on 127.0.0.1 until Ctrl-C."""
    with one_line_errors():
        from aigc_tasks.servers import serve_uis

        serve_uis(mlflow_port, prefect_port)


@app.command()
def serve(port: Port = 4200) -> None:
    """Keep the schedules of params.yaml until Ctrl-C, with Prefect on 127.0.0.1; goes on with what was killed."""
    with one_line_errors():
        from flows import serving

        serving.serve(port)


@app.command()
def work(
    pool: Annotated[str, typer.Option(help="a work pool of Prefect's server")] = "aigc",
) -> None:
    """Take up the retrainings of a work pool, in this checkout, until Ctrl-C; goes on with what was killed."""
    with one_line_errors():
        from flows import serving

        serving.work(pool)


@app.command()
def status() -> None:
    """Schedules, last and next runs, decisions, what is live, and what is stuck; ends with 1 if anything is."""
    with one_line_errors(recorded=True):
        from aigc_tasks import status as looking

        text, well = looking.status()
        print(text)
    sys.exit(0 if well else 1)


@app.command()
def pause(recipe: RecipeName) -> None:
    """Start no retraining of a recipe by its schedule or by events, until `aigc resume`."""
    with one_line_errors():
        from aigc_tasks import status as looking

        print(looking.set_paused(recipe, True))


@app.command()
def resume(recipe: RecipeName) -> None:
    """Retrain a recipe by its schedule again."""
    with one_line_errors():
        from aigc_tasks import status as looking

        print(looking.set_paused(recipe, False))


@app.command()
def watch(
    dataset: Annotated[list[str] | None, typer.Argument(help="data sets (default: those of all recipes)")] = None,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two looks")] = 30,
    settle: Annotated[float, typer.Option(min=0, help="seconds without a change before it is told")] = 60,
) -> None:
    """Look at the sources of data sets, and tell Prefect when one has changed, until Ctrl-C."""
    with one_line_errors():
        from aigc_tasks import watch as watching

        watching.watch(dataset or [], every, settle, lambda line: print(line, flush=True))


@app.command()
def deploy() -> None:
    """Write the schedules of params.yaml into prefect.yaml, for workers of a work pool."""
    with one_line_errors():
        from flows import deployments

        names = deployments.write()
        print(f"prefect.yaml: {', '.join(names)}; next: prefect deploy --all")


def main() -> None:
    gc.set_threshold(100_000)  # importing Prefect and MLflow makes a million objects that stay
    atexit.register(stage.leave_rubbish)
    app()
