"""Any folder of images: what is read from it, and how it is labelled and divided."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from archives import fill, packed
from folders import TREE, fetched, flaws
from pictures import encoded, noise

from aigc_tasks import layout
from aigc_tasks.errors import UserError

GREY, COLOUR = noise(1, "L"), noise(2)


def test_every_file_is_brought_whatever_it_is(tmp_path: Path) -> None:
    content = {
        "a.png": encoded(GREY),
        "b/empty.gif": b"",
        "b/page.jpg": b"<html>",
        "b/program": b"\x7fELF",
        "c.csv": b"x,y",
    }
    hidden = {".x/a.png": b"", "b/.a.png": b"", "__MACOSX/._a.png": b"", "Thumbs.db": b"", "b/desktop.ini": b""}
    notes = {"README.md": b"", "about.TXT": b"", "coco.json": b"{}"}
    rows = fetched(fill(tmp_path / "pics", content | hidden | notes), tmp_path / "data")
    assert {row.id: row.content for row in rows} == content
    assert {(row.label, row.split, row.source, row.flaw, row.gone) for row in rows} == {(None, None, "", None, False)}
    for row in rows:
        assert row.sha256 == hashlib.sha256(content[row.id]).hexdigest()


def test_class_folders_are_labels(tmp_path: Path) -> None:
    rows = fetched(fill(tmp_path / "pics", TREE | {"stray.png": encoded(noise(7))}), tmp_path / "data")
    assert {row.id: row.label for row in rows} == {name: name.split("/")[0] for name in TREE} | {"stray.png": None}
    assert {id: flaw for id, flaw in flaws(rows).items() if flaw} == {"stray.png": "in no class folder"}


def test_two_folders_beside_many_pictures_are_no_classes(tmp_path: Path) -> None:
    flat = {f"{seed}.png": encoded(noise(seed)) for seed in range(30)}
    few = {"new/a.png": encoded(noise(40)), "old/b.png": encoded(noise(41))}
    rows = fetched(fill(tmp_path / "pics", flat | few), tmp_path / "data")
    assert {(row.label, row.flaw) for row in rows} == {(None, None)}


def test_without_class_folders_there_are_no_labels(tmp_path: Path) -> None:
    flat = {name.replace("/", "-"): data for name, data in TREE.items()}
    one_folder = {f"faces/{name}": data for name, data in flat.items()}
    cases = [(flat, None, None), (one_folder, None, None), (one_folder, True, "faces"), (TREE, False, None)]
    for number, (content, labels, label) in enumerate(cases):
        samples = fetched(fill(tmp_path / str(number), content), tmp_path / "data", labels)
        assert {(sample.label, sample.flaw) for sample in samples} == {(label, None)}
        assert len(samples) == len(TREE)


def test_a_sources_own_splits_stay_and_are_no_classes(tmp_path: Path, cleaned: Any) -> None:
    names = {"Training": "train", "valid": "val", "testing": "test"}
    content = {
        f"{split}/{label}/{seed}.png": encoded(noise(seed + 50 * number + 1000 * len(label)))
        for number, split in enumerate(names)
        for label in ("cat", "horse")
        for seed in range(10)
    }
    content["Training/cat/twin.png"] = content["valid/cat/3.png"]
    data, manifest = cleaned(fill(tmp_path / "pics", content))
    assert data.classes == ["cat", "horse"]
    for name, split in names.items():
        kept = manifest[manifest["split"] == split]
        assert len(kept) == 20
        assert {Path(sample).parts[0] for sample in kept.index} == {name}
    assert manifest.loc["Training/cat/twin.png", "reason"] == "duplicate of valid/cat/3.png"
    with pytest.raises(UserError, match="samples are left for train; its source itself places all others in val or"):
        cleaned(fill(tmp_path / "held", {name: one for name, one in content.items() if not name.startswith("Tr")}))


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, cleaned: Any) -> None:
    written = []
    for number, names in enumerate((list(TREE), list(reversed(TREE)))):
        shutil.rmtree(tmp_path / "pics", ignore_errors=True)
        place = fill(tmp_path / "pics", {name: TREE[name] for name in names})
        for name in names[::3]:
            os.utime(place / name, (number, number))
            (place / name).chmod(0o600 + number)
        shutil.rmtree(layout.LOCAL, ignore_errors=True)
        cleaned(place)
        outputs = [*layout.raw("pics").iterdir(), *layout.clean("pics").iterdir()]
        written.append({file.name: file.read_bytes() for file in outputs})
    assert written[0] == written[1]


def test_links_are_followed_inside_the_source_alone(tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside", {"secret.png": encoded(noise(1))})
    place = fill(tmp_path / "pics", {"a.png": encoded(noise(2))})
    (place / "inside.png").symlink_to(place / "a.png")
    links = {"out.png": outside / "secret.png", "broken.png": "nowhere.png", "folder": outside, "loop": place}
    links |= {"self.png": "self.png", "archive.zip": packed(tmp_path / "x.zip", {"a.png": b""}), "up.png": "../x.zip"}
    for name, target in links.items():
        (place / name).symlink_to(target)
    found = flaws(fetched(place, tmp_path / "data"))
    flaw = "a link that leads out of the folder, to a folder or nowhere"
    assert found == {"a.png": None, "inside.png": None} | dict.fromkeys(links, flaw)


def test_what_is_no_file_or_cannot_be_opened_is_a_flaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"a.png": bytes(1 << 20), "large.png": bytes((1 << 20) + 1), "shut/b.png": b"", "no.png": b"x"}
    place = fill(tmp_path / "pics", content)
    os.mkfifo(place / "fifo.png")
    deep = place
    for _ in range(1200):  # more folders than Python calls
        deep = deep / "d"
        deep.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(place)
        listener.bind("socket.png")
        monkeypatch.chdir(tmp_path)
    expected = {"a.png": None, "large.png": "larger than 1 MiB", "fifo.png": "not a regular file"}
    expected |= {"socket.png": "not a regular file", "shut/b.png": None, "no.png": None}
    if os.geteuid():  # root may read everything
        (place / "shut").chmod(0)
        (place / "no.png").chmod(0)
        del expected["shut/b.png"]
        expected |= {"shut": "unreadable folder (Permission denied)", "no.png": "unreadable (Permission denied)"}
    try:
        assert flaws(fetched(place, tmp_path / "data", largest=1)) == expected
    finally:
        (place / "shut").chmod(0o700)
        subprocess.check_call(["rm", "-r", place / "d"])  # pytest's own cleaning up calls itself too often


def test_names_that_are_not_unicode_are_spelled_out(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", {"a.png": b"a"})
    Path(os.fsdecode(bytes(place) + b"/caf\xe9.png")).write_bytes(b"b")
    Path(os.fsdecode(bytes(place) + b"/d\xe9")).mkdir()
    Path(os.fsdecode(bytes(place) + b"/d\xe9/1.png")).write_bytes(b"c")
    rows = fetched(place, tmp_path / "data")
    assert {row.id: row.content for row in rows} == {"a.png": b"a", "caf\\xe9.png": b"b", "d\\xe9/1.png": b"c"}


WRONG = {
    "missing": (lambda place: None, "no such folder or file; set `source` in params.yaml"),
    "a text": (lambda place: place.write_text("x"), "neither a folder nor an archive; set `source` in params.yaml"),
    "empty": (lambda place: place.mkdir(), "holds no pictures"),
    "hidden": (lambda place: fill(place, {".a.png": b"x", "notes.txt": b"y"}), "holds no pictures"),
    "empty.zip": (lambda place: packed(place, {}), "holds no pictures"),
    "broken.zip": (lambda place: place.write_bytes(b"PK"), "broken.zip: not a whole archive; replace it, or move it"),
    "broken.tar": (lambda place: place.write_bytes(b"x" * 9), "broken.tar: not a whole archive"),
    "page.tgz": (lambda place: place.write_text("<html>"), "page.tgz: not a whole archive"),
    "empty.tar": (lambda place: place.write_bytes(b""), "empty.tar: not a whole archive"),
    "one": (lambda place: packed(place / "a.zip", {}).write_bytes(b"PK"), "a.zip: not a whole archive"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_source_is_one_clear_line(tmp_path: Path, name: str) -> None:
    make, message = WRONG[name]
    make(tmp_path / name)  # type: ignore[no-untyped-call]
    with pytest.raises(UserError) as error:
        fetched(tmp_path / name, tmp_path / "data")
    assert name in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_are_not_there_are_one_clear_line(tmp_path: Path) -> None:
    place = fill(tmp_path / "pics", {"a.png": encoded(GREY), "train/b.png": encoded(COLOUR)})
    with pytest.raises(UserError, match=r"`labels` is true in params\.yaml, but no picture lies in a class folder"):
        fetched(place, tmp_path / "data", labels=True)
