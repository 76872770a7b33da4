"""Files from web servers and stores: real servers on this machine, some of which break off, lie or refuse."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import numpy as np
import pytest
from PIL import Image

from aigc_tasks.acquire import Entry, Source, downloading, intake, places, raw, remote, store, unreachable, urls
from aigc_tasks.errors import UserError

BIG = np.random.default_rng(0).bytes(3_000_001)


@dataclass
class Web:
    """A web server's files and manners, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    version: str | None = "1"  # of all files, told as ETag
    breaks: int = 0  # answers that still are to be broken off half way
    refusals: int = 0  # answers that still are to be 503
    pace: float = 0.0  # seconds between two pieces of 64 kB
    other: dict[str, int | str] = field(default_factory=dict)  # a path's status or redirect; 0: it breaks off
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    sent: int = 0
    url: str = ""

    def count(self, method: str) -> int:
        return sum(asked[0] == method for asked in self.asked)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # with Python's 5, some of many clients at once are let in a second later


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, web: Web, *args: Any) -> None:
        self.web = web
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.do_GET(is_head=True)

    def do_GET(self, is_head: bool = False) -> None:
        web, path = self.web, unquote(urlsplit(self.path).path)
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if web.ranges else None
        web.asked.append((self.command, path, self.headers.get("Range")))
        content = web.files.get(path)
        if web.refusals:
            web.refusals -= 1
            return self.send_error(503)
        if isinstance(status := web.other.get(path), int):
            self.close_connection = True
            return self.send_error(status) if status else None
        if place := web.other.get(path) or f"{path}/" * (content is None and f"{path}/" in web.files):
            self.send_response(301)
            self.send_header("Location", str(place))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if content is None:
            return self.send_error(404)
        start = int(ranged[1]) if ranged else 0
        if ranged and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "text/html" if path.endswith("/") else "application/octet-stream")
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if web.version:
            self.send_header("ETag", f'"{web.version}"')
        self.end_headers()
        if not is_head:
            self.send(content[start:])
        return None

    def send(self, content: bytes) -> None:
        web, whole = self.web, len(content)
        if web.breaks:
            web.breaks -= 1
            content = content[: whole // 2]
        try:
            for place in range(0, len(content), 1 << 16):
                piece = content[place : place + (1 << 16)]
                self.wfile.write(piece)
                web.sent += len(piece)
                time.sleep(web.pace)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.close_connection = self.close_connection or len(content) < whole

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    server = Server(("127.0.0.1", 0), partial(Handler, web))
    web.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield web
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreachable, "PAUSES", (0.01, 0.02, 0.04))


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def index(names: list[str]) -> bytes:
    """A page that lists files, as web servers write it."""
    links = "".join(f'<a href="{name}">{name}</a>\n' for name in ("../", "?C=N;O=D", *names))
    return f"<html><body>{links}</body></html>".encode()


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "params.yaml" in text or "pip install" in text
    return text


def found(source: Source, work: Path) -> dict[str, Entry]:
    entries = {entry.id: entry for entry in source.entries(work)}
    assert entries
    return entries


# Downloads


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_after_broken_connections(web: Web, tmp_path: Path, ranges: bool) -> None:
    web.files, web.breaks, web.ranges = {"/a b.bin": BIG}, 3, ranges
    path = downloading.download(f"{web.url}/a%20b.bin", tmp_path)
    assert path == tmp_path / "a b.bin"
    assert path.read_bytes() == BIG
    assert not list(tmp_path.glob("*.part"))
    starts = [int(asked[len("bytes=") : -1]) if asked else 0 for _, _, asked in web.asked]
    assert len(starts) == 4
    # What came before a connection broke is not asked for again, but for what was still on its way to the file.
    assert not ranges or (starts == sorted(starts) and starts[-1] > 0)


def test_a_connection_that_never_holds_ends_in_one_line(web: Web, tmp_path: Path) -> None:
    web.files, web.breaks, web.ranges = {"/a.bin": BIG}, 1000, False
    with pytest.raises(UserError) as error:
        downloading.download(f"{web.url}/a.bin", tmp_path)
    assert "broke off" in one_line(error)
    assert not (tmp_path / "a.bin").exists()


def test_progress_counts_more_than_tries(web: Web, tmp_path: Path) -> None:
    web.files, web.breaks = {"/a.bin": BIG}, 9  # each brings half of the rest
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == BIG


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(web: Web, tmp_path: Path) -> None:
    web.files, web.refusals = {"/a.bin": b"abc"}, 3
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == b"abc"
    assert web.count("GET") == 4
    with pytest.raises(UserError) as error:
        downloading.download(f"{web.url}/b.bin", tmp_path)
    assert "404" in one_line(error)
    assert web.count("GET") == 5


def test_what_is_here_is_not_fetched_again_unless_it_changed(web: Web, tmp_path: Path) -> None:
    web.files = {"/a.bin": BIG}
    url, md5 = f"{web.url}/a.bin", hashlib.md5(BIG).hexdigest()
    downloading.download(url, tmp_path, md5=md5)
    assert len(web.asked) == 1
    downloading.download(url, tmp_path, md5=md5.upper())
    assert len(web.asked) == 1  # the checksum tells
    before = (tmp_path / "a.bin").stat().st_ino
    downloading.download(url, tmp_path)
    assert (tmp_path / "a.bin").stat().st_ino == before  # the version tells
    web.files["/a.bin"], web.version = BIG[::-1], "2"
    assert downloading.download(url, tmp_path).read_bytes() == BIG[::-1]


def test_a_file_that_changes_during_the_download_is_not_mixed(web: Web, tmp_path: Path) -> None:
    web.files, web.breaks, web.ranges = {"/a.bin": BIG}, 1000, False
    with pytest.raises(UserError):
        downloading.download(f"{web.url}/a.bin", tmp_path)
    assert 0 < (tmp_path / "a.bin.part").stat().st_size < len(BIG)
    web.files, web.breaks, web.ranges, web.version = {"/a.bin": BIG[::-1]}, 0, True, "2"
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == BIG[::-1]
    (tmp_path / "a.bin").rename(tmp_path / "a.bin.part")
    web.files["/a.bin"], web.version = b"short", "3"  # the range lies behind its end now
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == b"short"


def test_a_wrong_checksum_leaves_no_file(web: Web, tmp_path: Path) -> None:
    web.files = {"/a.bin": b"abc"}
    with pytest.raises(UserError, match=r"its sha256 is ba7816bf.*, not 0000"):
        downloading.download(f"{web.url}/a.bin", tmp_path, sha256="0" * 64)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


def test_a_killed_download_goes_on_where_it_was(web: Web, tmp_path: Path) -> None:
    web.files, web.pace = {"/a.bin": BIG}, 0.05
    code = "import sys; from pathlib import Path; from aigc_tasks.acquire.downloading import download; "
    code += "download(sys.argv[1], Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, f"{web.url}/a.bin", str(tmp_path)])
    part = tmp_path / "a.bin.part"
    while not part.exists() or part.stat().st_size < 500_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    had = part.stat().st_size
    assert had < len(BIG)
    assert not (tmp_path / "a.bin").exists()
    web.pace, web.asked = 0, []
    assert downloading.download(f"{web.url}/a.bin", tmp_path).read_bytes() == BIG
    assert web.asked == [("GET", "/a.bin", f"bytes={had - 1}-")]


def test_local_files_and_their_errors(tmp_path: Path) -> None:
    place = tmp_path / "a b" / "ü.bin"
    place.parent.mkdir()
    place.write_bytes(BIG)
    assert downloading.download(place.as_uri(), tmp_path / "into").read_bytes() == BIG
    assert remote.read(place.as_uri(), 64 << 20) == BIG
    with pytest.raises(UserError) as error:
        downloading.download(place.with_name("none").as_uri(), tmp_path)
    assert "no such file" in one_line(error)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/a.zip", "connection refused"),
        ("http://nowhere.invalid/a.zip", "unknown host"),
        ("ftp://127.0.0.1:9/a.zip", "connection refused"),
        ("ftp://nowhere.invalid/a.zip", "unknown host"),
        ("az://bucket/a.zip", "pip install adlfs"),
        ("sftp://host/a.zip", "pip install paramiko"),
        ("gopher://a/a.zip", "no protocol gopher"),
        ("file:///nowhere/a.zip", "no such folder or file"),
    ],
)
@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_what_cannot_be_had_is_said_in_one_line(url: str, words: str, kind: str, tmp_path: Path) -> None:
    url = url if kind == "archive" else url.removesuffix("a.zip") + "nothing"
    with pytest.raises(UserError) as error:
        found(store.Source(kind="store", source=url), tmp_path)
    assert words in one_line(error)


def test_secrets_in_urls_are_not_shown() -> None:
    url = "https://me:word@host/a.zip?X-Amz-Date=1&X-Amz-Signature=abc"
    assert places.shown(url) == "https://host/a.zip"
    assert places.shown("https://host/a?id=3") == "https://host/a?id=3"


# Web servers' folders


def test_a_web_servers_folder_is_walked(web: Web, tmp_path: Path) -> None:
    inside = {"cats/1.png": png(1), "dogs/2.png": png(2)}
    web.files = {
        "/set/": index(["cats/", "dogs/", "more.zip", "odd.tgz", ".hidden.png"]),
        "/set/cats/": index(["a%20b&amp;c.png", "x.png"]),
        "/set/dogs/": index(["y.png"]),
        "/set/cats/a b&c.png": png(3),
        "/set/cats/x.png": png(4),
        "/set/dogs/y.png": png(5),
        "/set/more.zip": zipped(inside),
        "/set/odd.tgz": tarred(inside),
    }
    entries = found(store.Source(kind="store", source=f"{web.url}/set/"), tmp_path)
    loose = ["cats/a b&c.png", "cats/x.png", "dogs/y.png"]
    assert list(entries) == [*loose, *(f"more/{name}" for name in inside), *(f"odd/{name}" for name in inside)]
    assert [entry.label for entry in entries.values()] == ["cats", "cats", "dogs", "cats", "dogs", "cats", "dogs"]
    assert entries["cats/a b&c.png"].read() == png(3)
    assert entries["odd/dogs/2.png"].read() == png(2)
    assert entries["cats/x.png"].stamp is not None
    assert entries["more/cats/1.png"].source == "more.zip"
    before = web.sent
    assert list(found(store.Source(kind="store", source=f"{web.url}/set"), tmp_path)) == list(entries)
    assert web.sent - before < 4000  # pages alone


def test_a_file_that_is_too_large_is_not_read(web: Web, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with open(tmp_path / "set" / "large.png", "wb") as file:
        file.truncate((2 << 20) + 1)
    (tmp_path / "set" / "small.png").write_bytes(png(1))
    web.files = {f"/set/{file.name}": file.read_bytes() for file in (tmp_path / "set").iterdir()}
    web.files["/set/"] = index(["large.png", "small.png"])
    for place in (f"{web.url}/set", (tmp_path / "set").as_uri()):
        entries = found(store.Source(kind="store", source=place, largest=2), tmp_path / "work")
        assert entries["large.png"].read is None
        assert entries["large.png"].flaw == "larger than 2 MiB"
        assert entries["small.png"].read() == png(1)
        with pytest.raises(ValueError, match="larger than 2 MiB"):
            remote.read(f"{place}/large.png", 2 << 20)


# Buckets


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


@contextmanager
def listening(log: Path, program: str, *options: str, **env: str) -> Iterator[str]:
    """A server from this environment on a free port, from when it answers; ``options`` end with that for the host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name(program)), *options, "127.0.0.1", "--port", str(port)]
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **env})
    try:
        while not answers(port):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


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


ARCHIVED = ("more/train/a b/x.png", "more/test/d+%41/y.png")


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


# Lists of URLs


def test_a_list_of_urls_and_what_of_it_cannot_be_had(web: Web, tmp_path: Path) -> None:
    web.files = {f"/{number}.png": png(number) for number in range(4)} | {"/set.zip": zipped({"5.png": png(5)})}
    web.files["/liar.png"] = png(6)
    wrong, right = hashlib.md5(b"").hexdigest(), hashlib.sha256(png(3)).hexdigest()
    rows = ["/0.png,cat,,", "/1.png,dog,,", "/none.png,dog,,", "/2.png,,,", f"/3.png,cat,,{right}", "/set.zip,cat,,"]
    lines = ["URL,Label,md5,sha256", *(web.url + row for row in [*rows, f"/liar.png,dog,{wrong},"])]
    place = tmp_path / "list.csv"
    place.write_text("\n".join(lines))
    source = urls.Source(kind="urls", source=str(place))
    intake.take_in(source, tmp_path / "raw", tmp_path / "work")
    index = raw.index(tmp_path / "raw").astype(object)
    index = index.where(index.notna(), None)
    host = web.url.removeprefix("http://")
    told = {row.id.removeprefix(f"{host}/"): (row.label, row.flaw) for row in index.itertuples()}
    assert told["none.png"] == ("dog", "unreachable (404)")
    assert told["2.png"][1] == "no label in list.csv"
    assert "its md5 is" in told["liar.png"][1]
    assert {name: label for name, (label, flaw) in told.items() if flaw is None} == {
        "0.png": "cat",
        "1.png": "dog",
        "3.png": "cat",
        "set/5.png": "cat",
    }
    web.asked = []
    place.write_text(place.read_text() + f"\n{web.url}/3.png,cat,,{right}\n")  # the same once more
    intake.take_in(source, tmp_path / "raw", tmp_path / "work")
    assert not [asked for asked in web.asked if asked[0] == "GET" and asked[1] in ("/0.png", "/1.png", "/3.png")]
    assert not [asked for asked in web.asked if asked[1] == "/3.png"]  # its checksum is its version


def test_urls_in_params_and_labels_by_folder(web: Web, tmp_path: Path) -> None:
    web.files = {"/cats/1.png": png(1), "/dogs/2.png": png(2), "/3.png": png(3)}
    listed = [f"{web.url}{path}?size=full" for path in web.files]
    plain = found(urls.Source(kind="urls", urls=listed), tmp_path)
    assert [entry.label for entry in plain.values()] == [None] * 3
    classes = found(urls.Source(kind="urls", urls=listed, labels=True), tmp_path)
    assert [(entry.label, entry.flaw) for entry in classes.values()] == [
        (None, "in no class folder"),
        ("cats", None),
        ("dogs", None),
    ]
    assert next(iter(plain.values())).read() == png(3)


def test_a_list_without_any_url_that_answers_is_an_error(web: Web, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        found(urls.Source(kind="urls", urls=[f"{web.url}/{number}.png" for number in range(30)]), tmp_path)
    assert "none of its 30 URLs" in one_line(error)


def test_a_host_that_is_down_is_not_asked_for_every_url(web: Web, tmp_path: Path) -> None:
    web.files = {"/1.png": png(1)}
    listed = [f"{web.url}/1.png", *(f"http://127.0.0.1:9/{number}.png" for number in range(500))]
    entries = found(urls.Source(kind="urls", urls=listed), tmp_path)
    assert sum(entry.flaw == "unreachable (connection refused)" for entry in entries.values()) == 500


@pytest.mark.parametrize(("status", "said"), [(503, "503"), (429, "429"), (0, "the connection broke off")])
def test_files_that_fail_take_none_of_their_neighbours_with_them(
    web: Web, tmp_path: Path, status: int, said: str
) -> None:
    web.files = {f"/{number:03}.png": png(number) for number in range(300)}
    web.other = dict.fromkeys(list(web.files)[:250:30], status)
    source = urls.Source(kind="urls", urls=[f"{web.url}{path}" for path in web.files])
    flaws = {f"/{id.rpartition('/')[2]}": entry.flaw for id, entry in found(source, tmp_path).items() if entry.flaw}
    assert flaws == dict.fromkeys(web.other, f"unreachable ({said})")


@pytest.mark.parametrize(("status", "said", "most"), [(0, "the connection broke off", 60), (503, "503", 150)])
def test_a_host_that_falls_silent_or_stays_busy_is_given_up(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int, said: str, most: int
) -> None:
    web.files = {f"/{number:03}.png": png(number) for number in range(300)}
    web.other = dict.fromkeys(list(web.files)[10:], status)
    entries = found(urls.Source(kind="urls", urls=[f"{web.url}{path}" for path in web.files]), tmp_path)
    assert sum(entry.flaw is None for entry in entries.values()) == 10
    assert len({path for _, path, _ in web.asked}) < most
    host = web.url.removeprefix("http://")
    assert f"{host}: {said}: given up, not asked for more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "said"),
    [("/b.png", "redirects in a circle"), ("file:///etc/passwd", "redirects to file:///etc/passwd, which is no web")],
)
def test_a_redirect_that_leads_nowhere_is_called_so(web: Web, tmp_path: Path, place: str, said: str) -> None:
    web.files, web.other = {"/c.png": png(1)}, {"/b.png": place}
    entries = found(urls.Source(kind="urls", urls=[f"{web.url}/b.png", f"{web.url}/c.png"]), tmp_path)
    assert [str(entry.flaw)[: len(said) + 13] for entry in entries.values()] == [f"unreachable ({said}", "None"]
    with pytest.raises(UserError) as error:
        downloading.download(f"{web.url}/b.png", tmp_path)
    assert said in one_line(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no URL"),
        ("cat.png\n", "'cat.png' is not a URL"),
        ("url,md5\nhttp://a/b,xyz\n", "'xyz' is no md5"),
        ("url,label\nhttp://a/b,x\nhttp://a/b,y\n", "twice"),
        ("url,label\nhttp://a/b\n", "a line of 1 columns, not 2"),
    ],
)
def test_a_wrong_list_is_said_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        found(urls.Source(kind="urls", source=str(tmp_path / "list.txt")), tmp_path)
    assert "\n" not in str(error.value)
    assert "list.txt" in str(error.value)


def test_a_list_that_names_pipes_devices_and_folders_waits_for_none(tmp_path: Path) -> None:
    (tmp_path / "own.png").write_bytes(png(1))
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "folder.png").mkdir()
    names = ["own.png", "pipe.png", "pipe.zip", "folder.png"]
    listed = [*((tmp_path / name).as_uri() for name in names), "file:///dev/zero", f"local://{tmp_path}/pipe.png?2"]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    intake.take_in(urls.Source(kind="urls", source=str(tmp_path / "list.txt")), tmp_path / "raw", tmp_path / "work")
    index = raw.index(tmp_path / "raw").set_index("id")["flaw"].fillna("")
    flaws = {id.rpartition("/")[2]: flaw for id, flaw in index.items()}
    refused = "unreadable (not a regular file)"
    assert flaws.pop("pipe.zip") == "unreachable (not a regular file)"
    assert flaws == {"own.png": ""} | dict.fromkeys(["pipe.png", "pipe.png?2", "folder.png", "zero"], refused)
    for place in (str(tmp_path / "pipe.png"), (tmp_path / "pipe.png").as_uri()):
        with pytest.raises(UserError, match=r"not a regular file; .*`source` in params\.yaml"):
            found(urls.Source(kind="urls", source=place), tmp_path)


def test_a_folder_by_its_url_is_the_folder(tmp_path: Path) -> None:
    place = tmp_path / "a set"
    (place / "cats").mkdir(parents=True)
    (place / "cats/1.png").write_bytes(png(1))
    (place / "dogs.zip").write_bytes(zipped({"dogs/2.png": png(2)}))
    (place / "broken.zip").write_bytes(b"PK")
    (place / "out.png").symlink_to("/etc/passwd")
    os.mkfifo(place / "pipe.png")
    entries = found(store.Source(kind="store", source=place.as_uri(), labels=True), tmp_path)
    assert {id: entry.flaw for id, entry in entries.items()} == {
        "broken.zip": "unreadable archive",
        "cats/1.png": None,
        "dogs/dogs/2.png": None,
        "out.png": "a link that leads out of the folder, to a folder or nowhere",
        "pipe.png": "not a regular file",
    }
    assert entries["dogs/dogs/2.png"].read() == png(2)
    assert [entry.label for entry in entries.values() if entry.flaw is None] == ["cats", "dogs"]


def test_a_broken_archive_in_a_store_is_one_entry(web: Web, tmp_path: Path) -> None:
    web.files = {"/set/": index(["a.zip", "b.zip"]), "/set/a.zip": zipped({"1.png": png(1)}), "/set/b.zip": b"PK"}
    entries = found(store.Source(kind="store", source=f"{web.url}/set"), tmp_path)
    assert {id: entry.flaw for id, entry in entries.items()} == {"a/1.png": None, "b.zip": "unreadable archive"}
    web.files["/set/"] = index(["b.zip"])
    said = f"{re.escape(web.url)}/set/b\\.zip: not a whole archive; replace it"
    for place in (f"{web.url}/set", f"{web.url}/set/b.zip"):
        with pytest.raises(UserError, match=f"^{said}"):
            found(store.Source(kind="store", source=place), tmp_path)
    with pytest.raises(UserError, match=f"the last: {said}"):
        found(urls.Source(kind="urls", urls=[f"{web.url}/set/b.zip"]), tmp_path)


def test_a_foreign_list_may_not_name_local_files(web: Web, tmp_path: Path) -> None:
    (tmp_path / "own.png").write_bytes(png(1))
    web.files = {"/list.txt": f"{(tmp_path / 'own.png').as_uri()}\n{web.url}/1.png\n".encode(), "/1.png": png(1)}
    entries = found(urls.Source(kind="urls", source=f"{web.url}/list.txt"), tmp_path)
    assert sorted(entry.read is None for entry in entries.values()) == [False, True]
