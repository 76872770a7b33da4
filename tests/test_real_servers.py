"""Retraining through real servers: MLflow and Prefect on PostgreSQL, an S3-compatible store, a worker's own clone."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import TIMEOUT, Project, checkout, wait_for
from pictures import FIRST, GROWN, draw
from real_servers import Servers, all_of_them
from ruamel.yaml import YAML
from test_flows import ask
from test_retrain import checkpointed, seen

from aigc_tasks import lifeline

pytestmark = pytest.mark.slow

PULL = {
    "prefect.deployments.steps.run_shell_script": {
        "directory": "{{ $AIGC_CHECKOUT }}",
        "script": "flock .git/aigc-pull git pull --ff-only",
    }
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with all_of_them(tmp_path_factory.mktemp("servers")) as found:
        yield found


@pytest.fixture
def mine(real: Servers, tmp_path: Path, env: dict[str, str]) -> Project:
    """The user's checkout: data in a bucket, DVC's remote in another, git's on a bare repository, nothing run yet."""
    project = checkout(Project(tmp_path / "mine", {**env, **real.env, "PREFECT_HOME": str(tmp_path / "prefect")}))
    for key, value in (("user.name", "user"), ("user.email", "user@example.invalid")):
        project.check("git", "config", key, value)
    project.check("dvc", "remote", "add", "--default", "store", "s3://dvc/numbers")
    project.edit(learn_from_a_bucket)
    add_pull_step(project)
    draw(tmp_path / "first", range(FIRST))
    real.upload(tmp_path / "first", "pictures", "digits")
    project.check("git", "init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    project.check("git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    project.check("aigc", "deploy")
    publish(project)
    return project


def learn_from_a_bucket(params: Any) -> None:
    params["datasets"]["digits"]["acquire"] = {"kind": "store", "source": "s3://pictures/digits"}
    params["datasets"]["digits"]["clean"] = {"checks": {"near_duplicate": "off"}}
    params["recipes"]["digits-gan"] |= {
        "product": "numbers",
        "postprocess": {"count": 100},
        "schedule": {"interval": 15, "push": True},
    }
    params["products"] = {"numbers": {"gate": {"at_most": {"fid_ratio": 500.0}}}}


def add_pull_step(project: Project) -> None:
    """The worker's clone is to be what was pushed."""
    path, yaml = project.path / "prefect.yaml", YAML()
    content = yaml.load(path.read_text())
    content["pull"].insert(0, PULL)
    yaml.dump(content, path)


def publish(project: Project) -> None:
    project.check("git", "commit", "--quiet", "--no-verify", "--all", "--message", "As it shall be")
    project.check("git", "push", "--quiet", "--set-upstream", "origin", "HEAD")


@contextmanager
def while_paused(project: Project) -> Iterator[None]:
    """Nothing is at work in this block, so that no run sees half of what is changed in it."""
    project.check("aigc", "pause", "digits-gan")
    at_work = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}}
    wait_for(lambda: not ask(project.env["PREFECT_API_URL"], "/flow_runs/filter", at_work))
    yield
    project.check("aigc", "resume", "digits-gan")


def training(steps: int, every: int = 20) -> Callable[[Any], None]:
    knobs = {"steps": steps, "checkpoint_every": every, "picture_every": steps}
    return lambda params: params["recipes"]["digits-gan"].update(train=knobs)


@contextmanager
def working(clone: Project) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """``aigc work``, and what it says; killed at the end if it still runs."""
    log = clone.path.parent / "work.log"
    with open(log, "w") as output:
        worker = clone.start("aigc", "work", stdout=output, start_new_session=True)
    try:
        yield worker, log
    finally:
        lifeline.stop(worker)


def ended(api: str, state: str) -> list[dict[str, Any]]:
    return ask(api, "/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": [state]}}}})


def champion(real: Servers) -> str:
    from mlflow import MlflowClient

    return MlflowClient(real.mlflow).get_model_version_by_alias("numbers", "champion").version


def runs(real: Servers) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(real.mlflow)
    return client.search_runs([one.experiment_id for one in client.search_experiments()])


def test_from_new_data_in_a_bucket_to_a_new_champion(mine: Project, real: Servers, tmp_path: Path) -> None:
    """A schedule fires in a clone; data grows; the worker is killed; a bad knob is refused; all of it is proved."""
    api = real.prefect
    mine.check("prefect", "work-pool", "create", "aigc", "--type", "process")
    mine.check("prefect", "--no-prompt", "deploy", "--all")
    before = seen(mine, apart=("params.yaml",))
    mine.check("git", "clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone", mine.env)

    with working(clone) as (worker, log):
        wait_for(lambda: ended(api, "Promoted"))
        wait_for(lambda: ended(api, "UpToDate"))
        assert (champion(real), len(runs(real))) == ("1", 1)
        with while_paused(mine):
            draw(tmp_path / "more", range(FIRST, GROWN))
            real.upload(tmp_path / "more", "pictures", "digits")
            mine.edit(training(steps=240))
            publish(mine)
        wait_for(lambda: checkpointed(clone))
        family = psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=20)
        assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        assert "resumes after step" not in log.read_text()

    with working(clone) as (worker, log):
        wait_for(lambda: len(ended(api, "Promoted")) == 2)
        said = log.read_text()
        assert "digits-gan goes on: it was at work when it was killed" in said
        assert "resumes after step" in said
        assert f"digits has grown: {GROWN - FIRST} images new, 0 gone" in said
        assert (champion(real), len(runs(real))) == ("2", 2), "the training that was killed went on in its run"
        with while_paused(mine):
            mine.edit(training(steps=1))
            publish(mine)
        (refused,) = wait_for(lambda: ended(api, "Refused"))
        verdict = "version 3 (digits-gan) was refused and stays a challenger, version 2 stays the champion"
        assert verdict in refused["state"]["message"]
        assert champion(real) == "2"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(TIMEOUT) == 130

    assert seen(mine, apart=("params.yaml",)) == before
    secret = real.env["AWS_SECRET_ACCESS_KEY"]
    assert secret not in log.read_text()
    is_taken_over_and_proved(mine)
    assert mine.run("git", "grep", "--quiet", secret, "origin/retrain/digits-gan").returncode == 1


def is_taken_over_and_proved(mine: Project) -> None:
    """In the user's checkout, in which nothing was trained, by what the servers and the bucket have."""
    mine.check("git", "fetch", "--quiet")
    history = mine.check("git", "log", "--format=%s", "--first-parent", "origin/retrain/digits-gan")
    assert history.startswith("Retrain digits-gan: refused\n")
    taking_over = re.search("origin/retrain/digits-gan is ahead: (.*)", mine.run("aigc", "status").stdout)
    assert taking_over
    assert taking_over[1] == "git merge origin/retrain/digits-gan && dvc pull --allow-missing"
    assert "data/clean/digits is not here; merge the branch that has it (aigc status), then dvc pull" in mine.check(
        "aigc", "products"
    )
    mine.check("sh", "-c", taking_over[1])
    assert "is up to date: nothing to run" in mine.check("aigc", "run", "digits-gan")
    proof = mine.run("aigc", "verify", "numbers@champion")
    assert proof.returncode == 0, proof.stdout
    mine.check("aigc", "generate", "numbers", "--count", "4", "--out", "drawn")
    assert len(list((mine.path / "drawn").glob("0*.png"))) == 4
