"""Folders and archives behind a URL: those that web servers list, and those of this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from archives import tarred, zipped
from listing import found, one_line
from pictures import png
from web_server import Web, index

from aigc_tasks.acquire import remote, store, urls
from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


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
