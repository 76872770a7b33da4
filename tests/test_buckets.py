"""Buckets of a server that speaks S3: they grow, cannot be read, or let nobody in."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
import pytest
from archives import zipped
from listing import found, one_line
from pictures import png
from real_servers import listening
from web_server import BIG

from aigc_tasks.acquire import intake, raw, store
from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


@dataclass
class Bucket:
    """A store that speaks S3, and the log of what it was asked."""

    url: str
    log: Path
    key: str = "key"

    @property
    def options(self) -> dict[str, Any]:
        return {"key": self.key, "secret": "secret", "client_kwargs": {"endpoint_url": self.url}}

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        client = self.client()
        client.create_bucket(Bucket=bucket)
        for name, content in files.items():
            client.put_object(Bucket=bucket, Key=name, Body=content)

    def source(self, place: str, **knobs: Any) -> store.Source:
        return store.Source(kind="store", source=f"s3://{place}", options=self.options, **knobs)

    def asked(self) -> list[str]:
        """Requests so far, as METHOD PATH."""
        return re.findall(r'"((?:GET|HEAD) [^ ]+) HTTP', self.log.read_text())


@contextmanager
def started(folder: Path, **env: str) -> Iterator[Bucket]:
    with listening(folder / "log", "moto_server", "-H", **env) as url:
        yield Bucket(url, folder / "log")


ARCHIVED = ("more/train/a b/x.png", "more/test/d+%41/y.png")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with started(tmp_path_factory.mktemp("store"), MOTO_S3_DEFAULT_MAX_KEYS="7") as bucket:  # pages of 7
        yield bucket


def test_a_bucket_grows_and_only_what_is_new_is_read(bucket: Bucket, tmp_path: Path) -> None:
    pictures = {f"set/{kind}/{number:02}.png": png(number) for number in range(20) for kind in ("a b", "d+%41")}
    archive = {"set/more.zip": zipped({"train/a b/x.png": png(100), "test/d+%41/y.png": png(101)})}
    bucket.put("growth", {**pictures, **archive, "other/z.png": png(102), "set/folder/": b"", "settle/q.png": png(103)})
    source, folder, work = bucket.source("growth/set"), tmp_path / "raw", tmp_path / "work"
    intake.take_in(source, folder, work)
    index = raw.index(folder).set_index("id")
    assert list(index.index) == sorted([name.removeprefix("set/") for name in pictures] + list(ARCHIVED))
    assert index["flaw"].isna().all()
    assert index.loc["d+%41/07.png", "sha256"] == hashlib.sha256(pictures["set/d+%41/07.png"]).hexdigest()
    assert list(index["label"]) == [id.split("/")[-2] for id in index.index]
    assert index.loc["more/test/d+%41/y.png", "split"] == "test"
    assert sum("list-type=2" in asked for asked in bucket.asked()) > 5  # it came in pages

    before = len(bucket.asked())
    new = {f"set/a b/new{number}.png": png(200 + number) for number in range(3)}
    bucket.put("growth", {**new, "set/d+%41/00.png": png(300)})
    bucket.client().delete_object(Bucket="growth", Key="set/a b/05.png")
    line = intake.take_in(source, folder, work)
    asked = [asked for asked in bucket.asked()[before:] if "list-type" not in asked]
    fetched = {unquote(asked.split(" ")[1].split("?")[0]) for asked in asked if asked.startswith("GET")}
    assert fetched == {f"/growth/{name}" for name in (*new, "set/d+%41/00.png")}
    assert len(asked) - len(fetched) <= 4  # the archive's version, each time it is listed
    assert "3 added, 1 changed, 1 removed" in line
    assert "secret" not in (folder / raw.SOURCE).read_text()


def test_an_archive_in_a_bucket_goes_on_where_it_was(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("archive", {"set.zip": zipped({"cats/1.png": png(1), "dogs/2.png": png(2), "x": BIG})})
    source = bucket.source("archive/set.zip", labels=True)
    entries = found(source, tmp_path)
    assert [entry.label for entry in entries.values()] == ["cats", "dogs", None]
    assert entries["set/cats/1.png"].read() == png(1)
    copy = next(tmp_path.rglob("set.zip"))
    with open(copy, "r+b") as file:
        file.truncate(2_000_000)
    copy.rename(f"{copy}.part")
    before = len(bucket.asked())
    assert list(found(source, tmp_path)) == list(entries)
    assert copy.read_bytes() == bucket.client().get_object(Bucket="archive", Key="set.zip")["Body"].read()
    assert sum(asked.startswith("GET") for asked in bucket.asked()[before:]) == 2  # the rest, and this test's own


def test_labels_from_a_csv_in_the_bucket(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("told", {"1.png": png(1), "2.png": png(2), "labels.csv": b"file,label\n1.png,cat\n"})
    entries = found(bucket.source("told", labels="s3://told/labels.csv"), tmp_path)
    assert {id: (entry.label, entry.flaw) for id, entry in entries.items()} == {
        "1.png": ("cat", None),
        "2.png": (None, "no label in labels.csv"),
    }


def test_a_bucket_that_cannot_be_read_is_said_in_one_line(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("empty", {"readme.txt": b"hello"})
    for place, words in [
        ("nobody", "no such bucket"),
        ("nobody/a.zip", "no such bucket"),
        ("key:secret@nobody/set", "s3://nobody/set: no bucket has such a name; correct `source`"),
        ("empty/a.zip", "no such file"),
        ("empty/none", "there is nothing"),
        ("empty", "holds no pictures"),
    ]:
        with pytest.raises(UserError) as error:
            found(bucket.source(place), tmp_path)
        assert words in one_line(error)


def test_no_credentials_and_wrong_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with started(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="2") as bucket:
        bucket.put("closed", {"1.png": png(1)})
        bucket.key = "AKIAWRONG"
        with pytest.raises(UserError) as error:
            found(bucket.source("closed"), tmp_path)
        assert "no permission" in one_line(error)
        options = {"client_kwargs": {"endpoint_url": bucket.url}}
        with pytest.raises(UserError) as error:
            found(store.Source(kind="store", source="s3://closed", options=options), tmp_path)
        assert "no credentials" in one_line(error)
        with pytest.raises(UserError) as error:
            found(store.Source(kind="store", source="s3://closed", options={"kye": "a"}), tmp_path)
        assert "correct `options` in params.yaml" in one_line(error)


def test_no_credentials_ask_no_metadata_service(tmp_path: Path) -> None:
    """A proxy for everything sees what would go to 169.254.169.254."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def listen() -> None:
            while True:
                connection, _ = proxy.accept()
                asked.append(connection.recv(1000))
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        env |= {"HOME": str(tmp_path), "http_proxy": f"http://127.0.0.1:{proxy.getsockname()[1]}", "no_proxy": ""}
        code = "from pathlib import Path; from aigc_tasks.acquire import store; "
        code += "list(store.Source(kind='store', source='s3://bucket').entries(Path('work')))"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
        assert "no credentials" in done.stderr
        assert asked == []
