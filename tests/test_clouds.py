"""Sources in Google's store and on the Hugging Face Hub, read by their own packages from servers on this machine.

The store is an emulator that others made. Of the Hub there is none to install, so ``Hub`` answers the three requests
that reading a data set makes, as the Hub documents them.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

import pytest
from archives import zipped
from pictures import png
from real_servers import listening

from aigc_tasks.acquire import intake, raw, remote, store
from aigc_tasks.errors import UserError

COMMIT = "a" * 40


class Cloud(Protocol):
    """Holds files below a folder ``set``, and knows which of them were fetched."""

    def put(self, files: dict[str, bytes]) -> None: ...
    def drop(self, name: str) -> None: ...
    def source(self, place: str = "set") -> store.Source: ...
    def fetched(self) -> list[str]: ...


# Google


class Bucket:
    """A bucket of the emulator, and its log."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    def put(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            self.ask("POST", f"/upload/storage/v1/b/pictures/o?uploadType=media&name={quote(name, '')}", content)

    def drop(self, name: str) -> None:
        self.ask("DELETE", f"/storage/v1/b/pictures/o/{quote(name, '')}")

    def ask(self, method: str, path: str, content: bytes | None = None) -> None:
        kind = {"Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(self.url + path, content, kind, method=method)).close()

    def source(self, place: str = "set") -> store.Source:
        where = place if place.startswith("gs:") else f"gs://pictures/{place}"
        return store.Source(kind="store", source=where, options={"endpoint_url": self.url, "token": "anon"})

    def fetched(self) -> list[str]:
        paths = re.findall(r'"GET (?:/download)?/storage/v1/b/pictures/o/([^ ?]+)\?alt=media', self.log.read_text())
        return [unquote(path) for path in paths]


@contextmanager
def emulator(folder: Path) -> Iterator[Bucket]:
    options = ("start", "--in-memory", "--default-bucket", "pictures", "--host")
    with listening(folder / "log", "gcp-storage-emulator", *options) as url:
        yield Bucket(url, folder / "log")


# The Hub


class Hub:
    """A public data set ``me/pictures``, what was asked for, and answers that still are to be 503."""

    def __init__(self, url: str = "") -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refusals = 0
        self.url = url

    def put(self, files: dict[str, bytes]) -> None:
        self.files |= files

    def drop(self, name: str) -> None:
        del self.files[name]

    def source(self, place: str = "set") -> store.Source:
        where = place if place.startswith("hf:") else f"hf://datasets/me/pictures/{place}"
        return store.Source(kind="store", source=where, options={"endpoint": self.url})

    def fetched(self) -> list[str]:
        return [path.partition("/resolve/main/")[2] for path in self.asked if "/resolve/" in path]

    def answer(self, path: str) -> tuple[bytes, dict[str, str]] | None:
        """Body and headers; None: there is no such thing."""
        about, listing, file = "/api/datasets/me/pictures", "/tree/main", "/datasets/me/pictures/resolve/main/"
        if path in (about, f"{about}/revision/main"):
            return json.dumps({"id": "me/pictures", "sha": COMMIT, "siblings": []}).encode(), {}
        if path.startswith(about + listing):
            below = path.removeprefix(about + listing).strip("/")
            told = [described(name, content) for name, content in self.files.items() if name.startswith(f"{below}/")]
            return (json.dumps(told).encode(), {}) if told else None
        content = self.files.get(path.removeprefix(file)) if path.startswith(file) else None
        return None if content is None else (content, {"X-Repo-Commit": COMMIT, "ETag": f'"{oid(content)}"'})


def described(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "oid": oid(content), "size": len(content), "path": name}


def oid(content: bytes) -> str:
    """As git names the content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.command == "GET":
            self.hub.asked.append(path)
        found = self.hub.answer(path)
        status, headers = (200, found[1]) if found else (404, {"X-Error-Code": "EntryNotFound"})
        body = found[0] if found else b""
        if found and path.endswith(".png") and self.hub.refusals:
            self.hub.refusals -= 1
            status, body = 503, b""
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if ranged and status == 200:
            end = min(int(ranged[2] or len(body) - 1), len(body) - 1)
            headers = {**headers, "Content-Range": f"bytes {ranged[1]}-{end}/{len(body)}"}
            status, body = 206, body[int(ranged[1]) : end + 1]
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def hub() -> Iterator[Hub]:
    one = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, one))
    one.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield one
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["gs", "hf"])
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cloud]:
    with emulator(tmp_path) if request.param == "gs" else hub() as one:
        yield one


def elsewhere(protocol: str, url: str) -> store.Source:
    """The set, where there is no such cloud."""
    return Bucket(url, Path()).source() if protocol == "gs" else Hub(url).source()


def test_a_set_in_the_cloud_grows_and_only_what_is_new_is_read(cloud: Cloud, tmp_path: Path) -> None:
    pictures = {f"set/{kind}/{number:02}.png": png(number) for number in range(5) for kind in ("a b", "d+%41")}
    archive = {"set/more.zip": zipped({"train/cats/x.png": png(100), "test/dogs/y.png": png(101)})}
    cloud.put({**pictures, **archive, "settle/q.png": png(103)})
    folder, work = tmp_path / "raw", tmp_path / "work"
    intake.take_in(cloud.source(), folder, work)
    index = raw.index(folder).set_index("id")
    inside = ["more/test/dogs/y.png", "more/train/cats/x.png"]
    assert list(index.index) == sorted([name.removeprefix("set/") for name in pictures] + inside)
    assert index["flaw"].isna().all()
    assert index.loc["d+%41/03.png", "sha256"] == hashlib.sha256(pictures["set/d+%41/03.png"]).hexdigest()
    assert list(index["label"]) == [id.split("/")[-2] for id in index.index]
    assert index.loc["more/test/dogs/y.png", "split"] == "test"

    before = len(cloud.fetched())
    new = {"set/a b/new.png": png(200), "set/d+%41/00.png": png(300)}
    cloud.put(new)
    cloud.drop("set/a b/02.png")
    line = intake.take_in(cloud.source(), folder, work)
    assert "1 added, 1 changed, 1 removed" in line
    assert set(cloud.fetched()[before:]) - {"set/more.zip"} == set(new)


def test_what_the_cloud_does_not_have_is_said_in_one_line(
    cloud: Cloud, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cloud.put({"set/1.png": png(1), "empty/readme.txt": b"hello"})
    nobody = "hf://datasets/me/nothing" if isinstance(cloud, Hub) else "gs://nobody/set"
    for place, words in [
        (nobody, "404|no such file"),
        ("none", "there is nothing"),
        ("empty", "holds no pictures"),
    ]:
        with pytest.raises(UserError, match=words) as error:
            list(cloud.source(place).entries(tmp_path / "work"))
        assert "\n" not in str(error.value)
        assert "`source` in params.yaml" in str(error.value)
    assert list(cloud.source().entries(tmp_path / "work"))
    assert capfd.readouterr().err.count("\n") == 0  # nor does a package print its own mind
    if isinstance(cloud, Bucket):  # the other class of gcsfs asks another service before every file
        assert type(remote.filesystem("gs://pictures", cloud.source().options)[0]).__module__ == "gcsfs.core"


@pytest.mark.slow
def test_a_busy_hub_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigc_tasks.acquire.unreachable.PAUSES", (0.01, 0.02, 0.04))
    with hub() as one:
        one.put({"set/1.png": png(1)})
        one.refusals = 2
        (entry,) = one.source().entries(tmp_path / "work")
        assert entry.read is not None
        assert entry.read() == png(1)


@pytest.mark.parametrize(("status", "words"), [(401, "401"), (403, "no permission|403")])
@pytest.mark.parametrize("protocol", ["gs", "hf"])
def test_a_cloud_that_lets_nobody_in(protocol: str, status: int, words: str, tmp_path: Path) -> None:
    class Closed(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        with pytest.raises(UserError, match=f"({words}).*; set credentials in the environment") as error:
            list(elsewhere(protocol, f"http://127.0.0.1:{server.server_port}").entries(tmp_path))
        server.shutdown()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", ["gs", "hf"])
def test_a_cloud_that_is_down(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's package tries again on its own: ours are not added to its half minute."""
    monkeypatch.setattr("aigc_tasks.acquire.unreachable.PAUSES", (0.01, 0.02, 0.04))
    monkeypatch.setattr("random.random", lambda: -64.0)  # which is not waited for here
    with pytest.raises(UserError, match="connection refused; check the network") as error:
        list(elsewhere(protocol, "http://127.0.0.1:9").entries(tmp_path))
    assert "\n" not in str(error.value)
