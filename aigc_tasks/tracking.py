"""MLflow: one run per execution of a training, found again by its fingerprint.

The store is ``mlruns/mlflow.db`` (SQLite) with the artifacts in ``mlruns/artifacts``, or the server that
``MLFLOW_TRACKING_URI`` names. Runs are addressed by id through ``MlflowClient``, never through MLflow's thread-local
active run, which retries and nested processes are known to mix up.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from aigc_tasks import layout
from aigc_tasks.errors import UserError
from aigc_tasks.worktree import MADE_WITH

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from PIL import Image

STORE = Path("mlruns")
SQLITE = "sqlite:///"
NAMED = "MLFLOW_TRACKING_URI"  # the user's server, if one is named
FINGERPRINT = "aigc.fingerprint"
IDENTITY = "aigc.identity"  # of a logged model: a hash of what it is made of
FLOW_RUN = "AIGC_FLOW_RUN_ID"  # set by the flow for the stages it runs
BATCH = 900  # metrics in one request; MLflow takes at most 1,000
EVERY = 2.0  # seconds between two batches
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's page shows training, not chat traces
PICTURE = re.compile(r"samples[+%]step[+%](\d+)[+%]")
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "pydantic", "safetensors", "torch")  # of a served model
PATHS = {  # every column of MLflow's database that holds an absolute path of the store
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


def tracking_uri() -> str:
    """The user's server if one is named, else the database of this checkout; a file's address is absolute."""
    uri = os.environ.get(NAMED) or f"{SQLITE}{STORE / 'mlflow.db'}"
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def store() -> Path | None:
    """The folder of the SQLite database, which also holds the artifacts; None for a server."""
    uri = tracking_uri()
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None


def lock(name: str) -> FileLock:
    """A lock that all checkouts and worktrees share which share the store; with a server, those of this checkout."""
    folder = store() or layout.LOCAL
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def open_client() -> MlflowClient:
    """A client of the store, which is made, or mended after the checkout was moved, before anything else sees it."""
    import mlflow
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ.pop("MLFLOW_RUN_ID", None)  # a leaked one would redirect every call
    uri = tracking_uri()
    named = NAMED in os.environ
    mlflow.set_tracking_uri(uri)  # the registry looks up models through it, whatever the client was given
    if not named:
        os.environ.pop(NAMED, None)  # MLflow wrote it there for children, which are to find the store by themselves
    if (folder := store()) is not None:
        with lock("mlflow"):
            anchor(folder)
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)  # creates the tables at the first use, once
        return client
    return MlflowClient(uri)


def refuse_dead() -> None:
    """Raises ``UserError`` if nothing answers where a server is said to be: MLflow's client would try for minutes.

    A stage has that patience, and outlives a server that is started again; a user who looks has not.
    """
    uri = os.environ.get(NAMED, "")
    if not uri.startswith(("http:", "https:")):
        return
    import ssl
    import urllib.error
    import urllib.request

    from aigc_tasks.acquire import places  # here: no stage needs it for its bytes

    server = places.shown(uri)
    try:
        urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=10).close()  # noqa: S310
    except urllib.error.HTTPError:
        pass  # an answer
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLError):  # of whose certificate MLflow may have been told
            said = f"no MLflow server answers there ({reason}); start it, or correct {NAMED}"
            raise UserError(f"{server}: {said}") from None


def anchor(store: Path) -> None:
    """Make the absolute artifact paths in the database those of the folder it lies in.

    MLflow stores where artifacts lie as absolute paths. A checkout may be moved or copied, so the folder the paths were
    written for is kept beside the database, and when it is another one they are rewritten, in one transaction.
    """
    note = store / "anchor"
    before, now = note.read_text() if note.exists() else None, str(store.resolve())
    if before == now:
        return
    if before is not None and (store / "mlflow.db").exists():
        database = sqlite3.connect(store / "mlflow.db")
        with database:
            for table, column in PATHS.items():
                database.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?) > 0",  # noqa: S608
                    (f"{before}/", f"{now}/", f"{before}/"),
                )
        database.close()
    layout.replace(note, now)


def registered_tags(prefix: str) -> dict[str, dict[str, str]]:
    """Of every registered model the tags whose keys begin like that.

    Those of this checkout are read from its database: MLflow gives the same, but to import it alone takes two seconds.
    """
    found: dict[str, dict[str, str]] = {}
    if store() is None:
        client, token = open_client(), None
        while True:
            page = client.search_registered_models(max_results=1000, page_token=token)
            for model in page:
                found[model.name] = {key: value for key, value in model.tags.items() if key.startswith(prefix)}
            if not (token := page.token):
                return found
    path = Path(tracking_uri().removeprefix(SQLITE))
    if path.exists():
        table = "registered_model_tags"
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchone():
                rows = database.execute(f"SELECT name, key, value FROM {table} WHERE key GLOB ?", [f"{prefix}*"])  # noqa: S608
                for name, key, value in rows:
                    found.setdefault(name, {})[key] = value
    return found


def find_run(client: MlflowClient, fingerprint: str) -> str | None:
    """The newest run with this fingerprint."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(
        experiments, f"tags.`{FINGERPRINT}` = '{fingerprint}'", order_by=["attributes.start_time DESC"], max_results=1
    )
    return found[0].info.run_id if found else None


def start_run(client: MlflowClient, experiment: str, name: str, tags: dict[str, str], params: dict[str, Any]) -> str:
    """A new run with its tags and parameters; returns its id."""
    from mlflow.entities import Param

    with lock("mlflow"):  # two recipes of one data set may begin at once
        found = client.get_experiment_by_name(experiment)
        if found is None:
            folder = store()
            place = None if folder is None else str(folder / "artifacts" / experiment)
            number = client.create_experiment(experiment, artifact_location=place, tags=KIND)
        else:
            number = found.experiment_id
    run = client.create_run(number, run_name=name, tags={**tags, "mlflow.source.name": "aigc_tasks.train"})
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in flat(params).items()])
    return run.info.run_id


def reopen(client: MlflowClient, run_id: str) -> bool:
    """Set an earlier attempt's run to running again; False if it is no longer there."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException:
        return False
    print(f"MLflow run {run_id} goes on", flush=True)
    return True


def flow_tags() -> dict[str, str]:
    """The Prefect flow run that this process works for; nothing when DVC was started by hand."""
    return {"prefect.flow_run_id": os.environ[FLOW_RUN]} if FLOW_RUN in os.environ else {}


@contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """CPU, memory, disk, network and GPU use as metrics ``system/…`` of the run while the block runs."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True)  # MLFLOW_SYSTEM_METRICS_… set its pace
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def log_model(client: MlflowClient, run_id: str, folder: Path, label: str, name: str, identity: str) -> str:
    """What ``served_model`` makes of ``folder``, as the run's model ``name``; returns its id.

    Logged once: what an earlier attempt logged under the same ``identity`` is not logged again.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    logged = f"source_run_id = '{run_id}' AND tags.`{IDENTITY}` = '{identity}'"
    found = client.search_logged_models([experiment], filter_string=logged)
    ready = [model.model_id for model in found if model.status.value == "READY"]  # others were being written
    if ready:
        return ready[0]
    text, anything = "string", AnyType()  # a number that some rows do not say is NaN, which none of whole numbers is
    columns: list[Any] = [
        ColSpec(text, "label", False), ColSpec(anything, "count", False), ColSpec(anything, "seed", False),
        ColSpec(text, "options", False),
    ]  # fmt: skip
    model = client.create_logged_model(experiment, name, run_id, {IDENTITY: identity}, run.data.params)
    Model.log(  # as mlflow.pyfunc.log_model does, but for a run that need not be the active one
        artifact_path=None,
        flavor=mlflow.pyfunc,
        run_id=run_id,
        model_id=model.model_id,
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={"model": str(folder)},
        code_paths=[str(Path(__file__).parent)],
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        input_example=pd.DataFrame({"label": [label], "count": [1], "seed": [0]}),
        signature=ModelSignature(inputs=Schema(columns)),
    )
    return str(model.model_id)


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"steps": 1}}`` to ``{"train.steps": 1}``."""
    items: dict[str, Any] = {}
    for key, value in nested.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def git_tags() -> dict[str, str]:
    """The commit, and whether what the training is made with differs from it; nothing outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {
            "mlflow.source.git.commit": git("rev-parse", "HEAD"),
            "git.dirty": str(bool(git("status", "--porcelain", "--", *MADE_WITH))).lower(),
        }
    except (OSError, subprocess.CalledProcessError):
        return {}


class Curves:
    """Live curves and pictures of one run, in batches; what an earlier attempt logged is not logged again."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self.buffer: list[tuple[str, float, int, int]] = []
        self.flushed = time.monotonic()
        self.logged = self.last_point()
        self.pictured = self.last_picture()

    def last_point(self) -> int:
        from mlflow.exceptions import MlflowException

        try:
            latest = self.client.get_run(self.run_id).data.metrics
            names = [name for name in latest if name.startswith("curves/")]
            return max((point.step for point in self.client.get_metric_history(self.run_id, names[0])), default=0)
        except (MlflowException, IndexError):
            return 0

    def last_picture(self) -> int:
        """MLflow names time-stepped pictures KEY+step+NUMBER+…"""
        files = [PICTURE.match(Path(file.path).name) for file in self.client.list_artifacts(self.run_id, "images")]
        return max((int(match[1]) for match in files if match), default=-1)

    def point(self, step: int, curves: dict[str, float]) -> None:
        if step > self.logged:
            now = int(time.time() * 1000)
            self.buffer += [(f"curves/{name}", value, now, step) for name, value in curves.items()]
        if time.monotonic() - self.flushed >= EVERY:
            self.flush()

    def picture(self, step: int, picture: Image.Image) -> None:
        if step > self.pictured:
            self.client.log_image(self.run_id, picture, key="samples", step=step)

    def flush(self) -> None:
        """Send what is buffered. One request holds whole steps, so that an attempt logs a step fully or not at all."""
        from mlflow.entities import Metric

        width = len({name for name, *_ in self.buffer}) or 1
        size = BATCH // width * width
        for start in range(0, len(self.buffer), size):
            self.client.log_batch(self.run_id, metrics=[Metric(*point) for point in self.buffer[start : start + size]])
        self.buffer = []
        self.flushed = time.monotonic()


def log_metrics(client: MlflowClient, run_id: str, metrics: dict[str, float]) -> None:
    """Final figures, at step 0."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])


def log_dataset(client: MlflowClient, run_id: str, name: str, digest: str, path: Path, counts: dict[str, int]) -> None:
    """The cleaned data set as the run's input, identified by DVC's hash."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"path": str(path), "dvc": digest})
    entry = Dataset(name, digest[:36], "dvc", source, profile=json.dumps(counts))
    client.log_inputs(run_id, [DatasetInput(entry, [InputTag("mlflow.data.context", "training")])])
