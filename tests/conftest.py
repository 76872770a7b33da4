"""A project to try things in: a copy of this working tree in a temporary folder, with a training of a few seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from ruamel.yaml import YAML

import aigc_tasks  # noqa: F401 (before numpy: one thread each)

if TYPE_CHECKING:
    from web_server import Web

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; threads of two processes of tests wait for each other

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
TIMEOUT = 900  # seconds; only what hangs is to end by it, and machines differ by a factor of four
USER = {f"GIT_{who}_{key}": "user" for who in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}


LONG = ("test_real_servers", "test_targets")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: begun last, they would run alone, while the other process that runs tests has nothing left."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def error(output: str) -> str:
    """The line of a command's output that says what went wrong; Prefect may have something to say after it."""
    return next(line for line in reversed(output.splitlines()) if line.startswith("error: "))


def wait_for(condition: Callable[[], Any], seconds: float = TIMEOUT, by: subprocess.Popen[str] | None = None) -> Any:
    """What the condition gives as soon as that is true; a twentieth of the time goes to looking, at most.

    ``by`` is the process that is to make it true, of which nothing can be awaited when it has ended.
    """
    deadline = time.monotonic() + seconds
    while (began := time.monotonic()) < deadline:
        has_ended = by is not None and by.poll() is not None
        if found := condition():
            return found
        assert by is None or not has_ended, by.communicate()[0]
        time.sleep(max(0.05, 19 * (time.monotonic() - began)))
    raise AssertionError("waited in vain")


@dataclass
class Project:
    """A checkout, and the environment a user's shell has in it."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command without waiting for it; its output, both streams, is a pipe."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
        return subprocess.Popen(command, cwd=self.path, env=self.env, **options)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        return subprocess.run(command, cwd=self.path, env=self.env, capture_output=True, text=True, timeout=TIMEOUT)

    def check(self, *command: str) -> str:
        """Run a command that must succeed; returns its standard output."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def edit(self, change: Callable[[Any], None]) -> None:
        """Change ``params.yaml`` as a user would with an editor."""
        yaml = YAML()
        params = yaml.load((self.path / "params.yaml").read_text())
        change(params)
        with open(self.path / "params.yaml", "w") as file:
            yaml.dump(params, file)

    def copied(self, path: Path) -> Project:
        """The same in another place, free to change."""
        shutil.copytree(self.path, path, symlinks=True)
        return Project(path, dict(self.env))

    def lock(self) -> dict[str, Any]:
        """The stages in ``dvc.lock``."""
        return YAML(typ="safe").load((self.path / "dvc.lock").read_text())["stages"]

    def hashes(self) -> dict[str, str]:
        """DVC's hash of every output."""
        return {out["path"]: out["md5"] for stage in self.lock().values() for out in stage["outs"]}

    def mlflow(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.path}/mlruns/mlflow.db")

    def runs(self) -> list[Any]:
        """Every MLflow run of the project."""
        client = self.mlflow()
        return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def quicken(params: Any) -> None:
    """One recipe, few steps, many checkpoints, and no product: the gate is tried where it is what matters."""
    params["datasets"]["digits"]["features"] = {"steps": 60}
    for name in set(params["recipes"]) - {"digits-gan"}:
        del params["recipes"][name]
    shorten(params["recipes"]["digits-gan"])
    del params["products"], params["recipes"]["digits-gan"]["product"]


def shorten(recipe: Any) -> None:
    recipe["train"] = {"steps": 60, "checkpoint_every": 20, "picture_every": 30}
    recipe["postprocess"] = {"count": 200}


FAMILIES = ("diffusion", "gan", "vae")


def with_every_family(project: Project) -> Project:
    """The project with a shortened recipe of every family on the digits."""
    yaml = YAML()
    for family in FAMILIES:
        entry = yaml.load((ROOT / f"recipes/digits-{family}.yaml").read_text())["recipes"][f"digits-{family}"]
        shorten(entry)
        del entry["product"]
        project.edit(lambda p, family=family, entry=entry: p["recipes"].update({f"digits-{family}": entry}))
    return project


@pytest.fixture(scope="session")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user with an activated virtual environment, whose own Prefect and DVC settings are new."""
    home = tmp_path_factory.mktemp("home")
    foreign = ("PREFECT_", "MLFLOW_", "DVC_", "AIGC_", "PYTEST_", "OMP_")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(foreign)},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PREFECT_HOME": str(home / "prefect"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc-global"),
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5",
    }


def checkout(project: Project) -> Project:
    """Put a copy of this working tree, as a commit of its own, into the project's folder."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for file in filter(None, subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")):
        if (ROOT / file).is_file() and file != "dvc.lock" and not file.startswith("reports/"):
            (project.path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, project.path / file)
    project.edit(quicken)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start", "--no-verify"]):
        project.check("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", *command)
    return project


@pytest.fixture
def new_project(tmp_path: Path, env: dict[str, str]) -> Callable[[str], Project]:
    """Makes checkouts of this working tree, with nothing run in them yet."""
    return lambda name: checkout(Project(tmp_path / name, dict(env)))


@pytest.fixture
def project(new_project: Callable[[str], Project]) -> Project:
    return new_project("project")


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that this process works in, as a stage would."""
    monkeypatch.chdir(project.path)
    return project


@pytest.fixture(scope="session")
def new_prefect_home(once: Once) -> Path:
    """Where Prefect has made its database, which takes seconds, and nothing is in it yet."""

    def work(project: Project) -> None:
        project.path.mkdir(parents=True)
        project.env["PREFECT_HOME"] = str(project.path)
        project.check("prefect", "server", "database", "upgrade", "--yes")

    return once("prefect-home", work).path


@pytest.fixture
def prefect_home(new_prefect_home: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(new_prefect_home, tmp_path / "prefect")
    return tmp_path / "prefect"


@pytest.fixture(scope="session")
def prefect_api(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server for the session."""
    from aigc_tasks import servers

    port = servers.free_port(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("prefect-server"))
        for key, value in env.items():
            patch.setenv(key, value)
        with servers.prefect(port):
            yield f"http://127.0.0.1:{port}/api"


Once = Callable[[str, Callable[[Project], object]], Project]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Once:
    """Makes a project by its name and what is done in it, once for all processes that run tests."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    def make(name: str, work: Callable[[Project], object]) -> Project:
        project = Project(shared / name / "project", dict(env))
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name / "whole").exists():
                work(project)
                (shared / name / "whole").touch()
        return project

    return make


@pytest.fixture(scope="session")
def finished(once: Once) -> Project:
    """A project in which `dvc repro` has run. Not to be changed: take a copy, ``done``.

    What each stage imported is noted in ``imported`` beside it.
    """

    def work(project: Project) -> None:
        noted = project.path.parent / "imported"
        noted.mkdir(parents=True)
        noting = {"PYTHONPATH": str(ROOT / "tests/noting"), "IMPORTED": str(noted)}
        checkout(Project(project.path, project.env | noting)).check("dvc", "repro")

    return once("finished", work)


@pytest.fixture(scope="session")
def prepared(once: Once) -> Project:
    """A project whose data and judge are there and whose model is not. Take a copy, ``untrained``."""
    return once("prepared", lambda project: checkout(project).check("dvc", "repro", "features@digits"))


@pytest.fixture
def untrained(prepared: Project, tmp_path: Path) -> Project:
    """A copy of the prepared project, free to change."""
    return prepared.copied(tmp_path / "project")


@pytest.fixture
def done(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, free to change."""
    return finished.copied(tmp_path / "project")


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server that has no files yet."""
    from web_server import started

    with started() as web:
        yield web


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not answer is asked again at once."""
    monkeypatch.setattr("aigc_tasks.acquire.unreachable.PAUSES", (0.01, 0.02, 0.04))


@pytest.fixture
def cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the two stages on a folder, in a project that holds nothing else."""
    from folders import through

    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return through


def real_data(path: str) -> Path:
    """Where a real data set lies; the test is skipped where it does not."""
    if not (SHARED / path).exists():
        pytest.skip(f"{SHARED / path} is missing: real data is needed")
    return SHARED / path


@pytest.fixture(scope="session")
def mnist_files() -> Path:
    return real_data("mnist")


@pytest.fixture(scope="session")
def trained_market(once: Once) -> Project:
    """A project with three competing recipes, all trained, nothing registered. Take a copy, ``market``."""
    from market import stock

    def work(project: Project) -> None:
        checkout(project).edit(stock)
        project.check("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "commit", "-qam", "stock")
        project.check("dvc", "repro")

    return once("market", work)


@pytest.fixture(scope="session")
def settled_market(trained_market: Project, once: Once) -> Project:
    """The same after ``poor``, then ``fair`` became champion and ``bad`` was refused. Take a copy, ``live``."""

    def work(project: Project) -> None:
        trained_market.copied(project.path)
        for recipe in ("poor", "fair", "bad"):
            project.check("aigc", "promote", recipe)

    return once("settled", work)


@pytest.fixture
def market(trained_market: Project, tmp_path: Path) -> Project:
    """A copy, free to change."""
    return trained_market.copied(tmp_path / "project")


@pytest.fixture
def live(settled_market: Project, tmp_path: Path) -> Project:
    """A copy, free to change."""
    return settled_market.copied(tmp_path / "project")


@pytest.fixture(scope="session")
def on_a_folder(once: Once) -> Project:
    """A project that has learned from a folder of pictures. Take a copy, ``trained``."""
    from pictures import FIRST, draw, learn_from_a_folder

    def work(project: Project) -> None:
        checkout(project)
        draw(project.path / "pictures", range(FIRST))
        project.edit(learn_from_a_folder)
        project.check("dvc", "repro")

    return once("folder", work)


@pytest.fixture
def trained(on_a_folder: Project, tmp_path: Path, prefect_api: str) -> Project:
    """A copy of it, free to change."""
    project = on_a_folder.copied(tmp_path / "project")
    project.env["PREFECT_API_URL"] = prefect_api
    return project
