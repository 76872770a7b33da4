"""Lists of URLs: what of each is fetched, what cannot be had and why, and when a host is given up."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from archives import zipped
from listing import found, one_line
from pictures import png
from web_server import Web

from aigc_tasks.acquire import downloading, intake, places, raw, urls
from aigc_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("no_pauses")


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


def test_a_list_tells_splits(web: Web, tmp_path: Path) -> None:
    web.files = {f"/{below}.png": png(number) for number, below in enumerate(("a", "b", "train/c", "test/d"))}
    web.files["/set.zip"] = zipped({"5.png": png(5), "train/6.png": png(6)})
    words = ("Train", "validation", "test", "", "test")
    for label in (",label", ""):  # by which the entries are made in two ways
        lines = [f"{web.url}{path},{word}{',x' if label else ''}" for path, word in zip(web.files, words, strict=True)]
        (tmp_path / "list.csv").write_text("\n".join([f"url,subset{label}", *lines]))
        source = urls.Source(kind="urls", source=str(tmp_path / "list.csv"))
        passed_over = found(source.model_copy(update={"split": False}), tmp_path)
        assert [entry.split for id, entry in passed_over.items() if "b.png" in id] == [None]
        entries = found(source, tmp_path)
        splits = {id.partition("/")[2]: entry.split for id, entry in entries.items()}
        assert splits == {
            "a.png": "train",
            "b.png": "val",
            "train/c.png": "test",
            "test/d.png": "test",
            "set/5.png": "test",
            "set/train/6.png": "test",
        }


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
        (
            "url,split\nhttp://u:pass@a/b,fold1\n",
            "list.txt: http://a/b: 'fold1' is no split; .* `split: false`",
        ),
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


def test_a_foreign_list_may_not_name_local_files(web: Web, tmp_path: Path) -> None:
    (tmp_path / "own.png").write_bytes(png(1))
    web.files = {"/list.txt": f"{(tmp_path / 'own.png').as_uri()}\n{web.url}/1.png\n".encode(), "/1.png": png(1)}
    entries = found(urls.Source(kind="urls", source=f"{web.url}/list.txt"), tmp_path)
    assert sorted(entry.read is None for entry in entries.values()) == [False, True]


def test_secrets_in_urls_are_not_shown() -> None:
    url = "https://me:word@host/a.zip?X-Amz-Date=1&X-Amz-Signature=abc"
    assert places.shown(url) == "https://host/a.zip"
    assert places.shown("https://host/a?id=3") == "https://host/a?id=3"
