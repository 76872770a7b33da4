"""MLflow: one run per execution, found again, logged once, in a store that may move."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT
from mlflow import MlflowClient
from PIL import Image

from aigc_tasks import stage, tracking
from aigc_tasks.tracking import Curves


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def start(client: MlflowClient, fingerprint: str = "f") -> str:
    params = {"train": {"steps": 3}, "family": "gan"}
    return tracking.start_run(client, "digits", "digits-gan", {tracking.FINGERPRINT: fingerprint}, params)


def test_a_run_is_found_again_by_its_fingerprint(store: Path) -> None:
    client = tracking.open_client()
    assert tracking.find_run(client, "f") is None
    first = start(client)
    start(client, "other")
    assert tracking.find_run(client, "f") == first
    assert client.get_run(first).data.params == {"train.steps": "3", "family": "gan"}
    newest = start(client)
    assert tracking.find_run(client, "f") == newest


def test_a_resumed_attempt_logs_only_what_is_new(store: Path) -> None:
    client = tracking.open_client()
    run_id = start(client)
    first = Curves(client, run_id)
    for step in (10, 20, 30):
        first.point(step, {"loss": float(step), "other": 0.0})
    first.picture(20, Image.new("L", (4, 4)))
    first.flush()
    second = Curves(client, run_id)  # resumed from a checkpoint at step 20
    for step in (30, 40):
        second.point(step, {"loss": float(step), "other": 0.0})
    second.picture(20, Image.new("L", (4, 4)))
    second.picture(40, Image.new("L", (4, 4)))
    second.flush()
    assert [point.step for point in client.get_metric_history(run_id, "curves/loss")] == [10, 20, 30, 40]
    pictures = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
    assert sorted(int(path.split("+")[2]) for path in pictures) == [20, 40]


def test_more_points_than_one_request_takes(store: Path) -> None:
    client = tracking.open_client()
    run_id = start(client)
    curves = Curves(client, run_id)
    curves.flushed = float("inf")  # everything waits for the flush
    for step in range(1, 801):
        curves.point(step, {"a": 1.0, "b": 2.0, "c": 3.0})
    curves.flush()
    assert len(client.get_metric_history(run_id, "curves/c")) == 800


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_the_store_survives_a_move(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: object) -> None:
    client = tracking.open_client()
    run_id = start(client)
    client.log_text(run_id, "kept", "note.txt")
    there = tmp_path / "there and 'quoted'"
    move(store, there)  # type: ignore[operator]
    shutil.rmtree(store, ignore_errors=True)
    later = f"""
from pathlib import Path
from aigc_tasks import stage, tracking
client = tracking.open_client()
assert Path(client.download_artifacts({run_id!r}, "note.txt")).read_text() == "kept"
client.log_text({run_id!r}, "new", "other.txt")
"""
    subprocess.run([sys.executable, "-c", later], cwd=there, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (there / "mlruns/artifacts/digits" / run_id / "artifacts/other.txt").read_text() == "new"


@pytest.mark.parametrize("spoil", [lambda whole: whole[: len(whole) // 3], lambda whole: b"junk" * 5000])
@pytest.mark.parametrize("asked", [tracking.open_client, lambda: tracking.registered_tags("aigc")])
def test_a_damaged_store_is_named_with_its_mend(
    store: Path, spoil: Callable[[bytes], bytes], asked: Callable[[], object]
) -> None:
    tracking.open_client()
    database = store / "mlruns/mlflow.db"
    database.write_bytes(spoil(database.read_bytes()))
    with pytest.raises(Exception, match=r"malformed|not a database") as error:
        asked()
    line = stage.explain(error.value) or ""
    assert re.fullmatch(rf"{database}: damaged \(.*\); put a copy back, or move it away: .* stay in DVC", line)


def test_another_damaged_database_is_not_said_to_be_mlflows(store: Path) -> None:
    tracking.open_client()
    (store / "cache.db").write_bytes(b"junk" * 5000)
    with pytest.raises(sqlite3.DatabaseError) as error, closing(sqlite3.connect(store / "cache.db")) as database:
        database.execute("SELECT 1 FROM sqlite_master")
    assert (stage.explain(error.value) or "").startswith("a database is damaged (file is")


def test_a_store_that_is_only_busy_is_not_said_to_be_damaged(store: Path) -> None:
    tracking.open_client()
    (store / "cache.db").write_bytes(b"junk" * 5000)
    with closing(sqlite3.connect(store / "mlruns/mlflow.db", isolation_level="EXCLUSIVE")) as busy:
        busy.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.DatabaseError) as error, closing(sqlite3.connect(store / "cache.db")) as database:
            database.execute("SELECT 1 FROM sqlite_master")
        assert (stage.explain(error.value) or "").startswith("a database is damaged (file is")


def test_a_store_that_another_program_keeps_locked_is_said_to_be_so(store: Path) -> None:
    tracking.open_client()
    with closing(sqlite3.connect(store / "mlruns/mlflow.db", isolation_level="EXCLUSIVE")) as busy:
        busy.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Exception, match="database is locked") as error:
            tracking.open_client()
    line = stage.explain(error.value) or ""
    where = "a database of DVC's, MLflow's or a search's (.dvc/tmp, mlruns, .aigc/tune)"
    mend = "another program keeps it locked; end that, then run the same command again"
    assert line == f"{where}: database is locked; {mend}"


def test_a_database_that_may_not_be_written_is_no_matter_of_space(store: Path) -> None:
    with closing(sqlite3.connect(store / "one.db")) as whole:
        whole.execute("CREATE TABLE one (a)")
    readonly = f"{(store / 'one.db').as_uri()}?mode=ro"
    with pytest.raises(sqlite3.OperationalError) as error, closing(sqlite3.connect(readonly, uri=True)) as database:
        database.execute("INSERT INTO one VALUES (1)")
    assert "; make it readable and writable for you, then" in (stage.explain(error.value) or "")


def test_the_users_server_is_used_when_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5999")
    assert tracking.tracking_uri() == "http://127.0.0.1:5999"
