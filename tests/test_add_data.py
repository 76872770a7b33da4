"""`aigc add-data`: how a source's kind is told, what is said of it, what is written, and what follows."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import zipfile
from difflib import ndiff
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from archives import fill, packed
from conftest import Project, real_data
from PIL import Image
from ruamel.yaml import YAML
from web_server import served

from aigc_tasks.acquire import torchvision
from aigc_tasks.errors import UserError
from aigc_tasks.inspection import kinds


def picture(seed: int, width: int = 32, height: int = 32, mode: str = "RGB", form: str = "PNG") -> bytes:
    """An encoded picture that no other seed gives."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).convert(mode).save(file, form)
    return file.getvalue()


def entry(project: Project, name: str) -> Any:
    return YAML(typ="safe").load((project.path / "params.yaml").read_text())["datasets"][name]


def paste(project: Project, said: str) -> None:
    """Put the lines that `add-data` printed into params.yaml, as it says."""
    params = project.path / "params.yaml"
    block = said[said.index("\n\n  ") :].rstrip()
    params.write_text(params.read_text().rstrip() + block.replace("\n\n", "\n", 1) + "\n")


CLASSES = {f"{name}/{seed}.png": picture(seed + 100 * len(name)) for name in ("cat", "horse") for seed in range(12)}


def test_a_name_that_yaml_takes_for_something_else_can_be_pasted(project: Project) -> None:
    fill(project.path / "pics", CLASSES)
    for name in ("2024", "true", "2024-99-99"):
        paste(project, project.check("aigc", "add-data", name, "pics"))
        assert f"{name}-diffusion" in project.check("aigc", "list")
    assert "broken" not in project.check("aigc", "list")


@pytest.mark.slow
def test_the_commands_it_ends_with_work(project: Project) -> None:
    """Mixed sizes and modes, a note and a damaged file among them."""
    content = {f"cat/{seed}.jpg": picture(seed, 30 + seed, 40, form="JPEG") for seed in range(20)}
    content |= {f"dog/{seed}.png": picture(seed + 50, 50, 20 + seed, "L") for seed in range(20)}
    fill(project.path / "pics", content | {"cat/about.txt": b"cats", "dog/broken.png": b"no picture"})
    before = (project.path / "params.yaml").read_text()
    said = project.check("aigc", "add-data", "pets", "pics")
    assert "42; 40 of 42 looked at are pictures" in said
    assert "smallest 50×20, median 50×31, largest 49×40" in said
    assert re.search(r"modes +(RGB 20, L 20|L 20, RGB 20)\n", said)
    assert "classes   2: cat 20, dog 21" in said
    assert "clean drops, of 42 looked at: " in said
    assert "not a picture 1" in said
    assert entry(project, "pets") == {
        "acquire": {"kind": "folder", "source": "pics", "labels": True},
        "clean": {"size": 32},
        "features": {},
    }
    after = (project.path / "params.yaml").read_text()
    assert not [line for line in ndiff(before.splitlines(), after.splitlines()) if line.startswith("- ")]
    project.check("dvc", "repro", "clean@pets")
    train = project.path / "data/clean/pets/train.npy"
    assert np.load(train).shape[1:] == (3, 32, 32)
    for side in (16, 32):  # one that DVC knows from before, too
        project.edit(lambda p, side=side: p["datasets"]["pets"]["clean"].update(size=side))
        project.check("dvc", "repro", "clean@pets")
        assert np.load(train).shape[1:] == (3, side, side)
    paste(project, said)
    few = {"model": {"width": 8, "patch": 4}, "train": {"steps": 2, "batch": 8}}
    project.edit(lambda p: p["recipes"]["pets-diffusion"].update(few))
    project.check("dvc", "repro", "--single-item", "train@pets-diffusion")
    assert (project.path / "data/models/pets-diffusion").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "told", "clean"),
    [
        (
            "orl-faces/orl-faces.tar",
            ["sizes     92×112\n", "modes     L ", "classes   40: s1 10, s10 10"],
            {"size": 64},
        ),
        ("celeba-10k", ["sizes     89×109\n", "modes     RGB ", "classes   none\n"], {"size": 64}),
        ("cifar10-jpg", ["60,000; ", "classes   10: airplane 6,000", "splits    train 50,000, test 10,000\n"], {}),
    ],
)
def test_real_archives(project: Project, path: str, told: list[str], clean: dict[str, Any]) -> None:
    said = project.check("aigc", "add-data", "real", str(real_data(path)))
    for words in told:
        assert words in said
    assert entry(project, "real")["clean"] == clean


@pytest.mark.slow
def test_published_files_are_told_by_their_checksums(project: Project) -> None:
    for name, path in (("FashionMNIST", "fashion-mnist"), ("MNIST", "mnist")):
        place = str(real_data(path))
        said = project.check("aigc", "add-data", path, place)
        assert entry(project, path)["acquire"] == {"kind": "torchvision", "name": name, "mirror": place}
        assert "70,000; all of 200" in said
        assert "train 60,000, test 10,000" in said


def test_of_sets_whose_files_have_the_same_names_the_nearest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {f"{name}.gz": name.encode() for name in ("images", "labels", "more")}
    theirs = {name: hashlib.md5(data).hexdigest() for name, data in content.items()}
    sets = {"KMNIST": dict.fromkeys(theirs, 32 * "0"), "MNIST": theirs}
    known = {name: torchvision.Set(md5s, (), lambda _: iter(())) for name, md5s in sets.items()}
    monkeypatch.setattr(torchvision, "SETS", known)
    assert kinds.mirror_of(fill(tmp_path, content)) == "MNIST"
    fill(tmp_path, {"labels.gz": b"lab"})
    with pytest.raises(UserError, match=r"labels.gz: its md5 is .*, not .*, as that of MNIST is"):
        kinds.mirror_of(tmp_path)


@pytest.mark.slow
def test_the_kind_is_told_by_what_is_there(project: Project) -> None:
    place = project.path / "in"
    jpg = [picture(seed, form="JPEG") for seed in range(12)]
    pairs = {f"{n:03d}.{end}": data for n, jpeg in enumerate(jpg) for end, data in (("jpg", jpeg), ("cls", b"1"))}
    packed(place / "shards/train-000.tar", pairs)
    packed(place / "shards/train-001.tar", {f"more-{name}": data for name, data in pairs.items()})
    packed(place / "plain.tar", CLASSES)
    fill(place / "tree", CLASSES)
    fill(place / "tree", {"about.parquet": b"PAR1"})
    (place / "rows/data").mkdir(parents=True)
    table = pd.DataFrame({"image": [{"bytes": jpeg, "path": None} for jpeg in jpg], "label": 6 * ["a", "b"]})
    table.to_parquet(place / "rows/data/train.parquet")
    addresses = [fill(place / "loose", {f"{n}.jpg": jpeg}).joinpath(f"{n}.jpg").as_uri() for n, jpeg in enumerate(jpg)]
    (place / "list.txt").write_text("\n".join(addresses))
    (place / "list.tsv").write_text("\n".join(["url\tlabel", *(f"{address}\tcat" for address in addresses)]))
    kinds = {
        "in/tree": "folder",
        "in/plain.tar": "folder",
        "in/rows": "parquet",
        "in/rows/data/train.parquet": "parquet",
        "in/shards": "webdataset",
        "in/shards/train-000.tar": "webdataset",
        "in/shards/train-{000..001}.tar": "webdataset",
        "in/list.txt": "urls",
        "in/list.tsv": "urls",
        (place / "loose").as_uri(): "store",
        (place / "plain.tar").as_uri(): "store",
        (place / "rows").as_uri(): "parquet",
        (place / "shards").as_uri(): "webdataset",
        (place / "shards/train-000.tar").as_uri(): "webdataset",
    }
    for number, (source, kind) in enumerate(kinds.items()):
        project.check("aigc", "add-data", f"set{number}", source)
        labels = {"labels": "loose" not in source} if kind in ("folder", "store") else {}
        assert entry(project, f"set{number}")["acquire"] == {"kind": kind, "source": source} | labels
    project.check("aigc", "add-data", "other", "in/shards", "--kind", "folder")
    assert entry(project, "other")["acquire"]["kind"] == "folder"


def test_the_kind_of_a_place_elsewhere_is_told_by_what_is_there(project: Project) -> None:
    place = project.path / "in"
    fill(place / "tree", CLASSES)
    packed(place / "packs/a & b.tar", CLASSES)
    jpg = [picture(seed, form="JPEG") for seed in range(12)]
    pairs = {f"{n:03d}.{end}": data for n, jpeg in enumerate(jpg) for end, data in (("jpg", jpeg), ("cls", b"1"))}
    packed(place / "shards/train 0.tar", pairs)
    (place / "rows/data").mkdir(parents=True)
    table = pd.DataFrame({"image": [{"bytes": jpeg, "path": None} for jpeg in jpg], "label": 6 * ["a", "b"]})
    table.to_parquet(place / "rows/data/train.parquet")
    fill(place / "rows", {"README.md": b"a card", "cover.png": CLASSES["cat/0.png"]})
    table[6:].to_parquet(place / "rows/data/test.parquet")
    expected = {
        "tree": ("store", "classes   2: cat 12, horse 12"),
        "packs/": ("store", "classes   2: cat 12, horse 12"),
        "packs/a%20%26%20b.tar": ("store", "classes   2: cat 12, horse 12"),
        "shards": ("webdataset", "classes   1: 1 12"),
        "shards/train%200.tar": ("webdataset", "classes   1: 1 12"),
        "rows": ("parquet", "splits    train 12, test 6"),
    }
    with served(place) as (url, _):
        for number, (below, (kind, fact)) in enumerate(expected.items()):
            assert fact in project.check("aigc", "add-data", f"set{number}", f"{url}/{below}")
            assert entry(project, f"set{number}")["acquire"]["kind"] == kind
        result = project.run("aigc", "add-data", "none", f"{url}/none.tar")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "none.tar: 404; correct `source`" in result.stderr


def test_shards_are_told_as_they_are_read(project: Project) -> None:
    """Packed, with keys that have more than one ending, and with labels that the first shard lacks."""
    sides = [{f"{n}.left.png": picture(n), f"{n}.right.png": picture(n + 50), f"{n}.cls": b"cat"} for n in range(8)]
    bare = {f"{n}.png": picture(n + 100) for n in range(8)}
    packed(project.path / "packed/0.tar", {name: data for pair in sides for name, data in pair.items()})
    packed(project.path / "later/0.tar", bare)
    packed(project.path / "later/in/1.tar", {name: data for pair in sides for name, data in pair.items()})
    tar = project.path / "packed/0.tar"
    tar.with_name("0.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    tar.unlink()
    assert "classes   1: cat 16\n" in project.check("aigc", "add-data", "packed", "packed")
    assert entry(project, "packed")["acquire"] == {"kind": "webdataset", "source": "packed"}
    said = project.check("aigc", "add-data", "later", "later")
    assert "classes   1: cat 16\n" in said
    assert "cannot be used, of all 24: no label beside it 8\n" in said
    assert entry(project, "later")["acquire"] == {"kind": "webdataset", "source": "later", "labels": True}
    fill(project.path / "later", CLASSES)
    project.check("aigc", "add-data", "pictures", "later")
    assert entry(project, "pictures")["acquire"]["kind"] == "folder"


def test_a_relative_path_is_meant_from_where_the_user_stands(project: Project) -> None:
    fill(project.path / "docs/mine/pics", {name.replace("/", "-"): data for name, data in CLASSES.items()})
    labels = "".join(f"{name.replace('/', '-')},{name.split('/')[0]}\n" for name in CLASSES)
    (project.path / "docs/mine/labels.csv").write_text("file,label\n" + labels)
    below = Project(project.path / "docs/mine", project.env)
    said = below.check("aigc", "add-data", "mine", "pics", "--labels", "labels.csv", "--size", "16")
    assert "classes   2: cat 12, horse 12" in said
    assert entry(project, "mine") == {
        "acquire": {"kind": "folder", "source": "docs/mine/pics", "labels": "docs/mine/labels.csv"},
        "clean": {"size": 16},
        "features": {},
    }


def test_what_clean_would_refuse_is_said_before(project: Project) -> None:
    notes = {f"cat/{seed}.txt": b"a note" for seed in range(40)}
    fill(project.path / "pics", CLASSES | notes)
    said = project.check("aigc", "add-data", "noted", "pics")
    assert "only 38% can be used; `clean.survive` is lowered" in said
    assert entry(project, "noted")["clean"] == {"survive": 0.19}
    fill(project.path / "few", {f"{seed}.png": picture(seed) for seed in range(4)})
    assert "fewer than 6 pictures" in project.check("aigc", "add-data", "few", "few")
    fill(project.path / "held", {f"test/{name}": content for name, content in CLASSES.items()})
    said = project.check("aigc", "add-data", "held", "held")
    assert "problem   the source places all in val or test, and none to train on; add those to train on, or " in said


def test_what_clean_drops_or_flags_by_its_pixels_is_said_before(project: Project) -> None:
    blank, small, mixed = (project.path / name for name in ("blank", "small", "mixed"))
    blank.mkdir()
    for number in range(9):
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(blank / f"{number}.png")
    fill(small, {f"{number}.png": picture(number, 5, 5) for number in range(9)})
    fill(mixed, {f"a/{number}.png": picture(number) for number in range(9)})
    fill(mixed, {f"b/{number}.png": picture(number + 20, 90, 9) for number in range(9)})
    fill(mixed, {f"c/{number}.jpg": picture(number + 40, mode="RGBA") for number in range(2)})
    for place, reason in (("blank", "blank 9"), ("small", "too small 9")):
        done = project.run("aigc", "add-data", place, place)
        assert f"none of 9 entries looked at is a picture to learn from ({reason})" in done.stderr
    fill(mixed, {f"a/copy{number}.png": picture(0) for number in range(3)})
    said = project.check("aigc", "add-data", "mixed", "mixed")
    assert "23; all of 23 looked at are pictures\nsizes     32×32\n" in said
    assert "clean drops, of 23 looked at: extreme aspect 9, duplicate 3\n" in said
    assert "clean flags or converts, of 23 looked at: wrong type 2, odd mode 2\n" in said
    assert "only 48% can be used; `clean.survive` is lowered" in said
    assert entry(project, "mixed")["clean"] == {"survive": 0.24}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archives_double_members_count_as_acquire_takes_them(project: Project) -> None:
    with zipfile.ZipFile(packed(project.path / "pics.zip", CLASSES), "a") as archive:
        for name in [*CLASSES, "cat/0.png (2)"]:
            archive.writestr(name, picture(0))
    said = project.check("aigc", "add-data", "pets", "pics.zip")
    assert "49; 25 of 49 looked at are pictures" in said
    assert "cannot be used, of all 49: has the name of another 24\n" in said


@pytest.mark.slow
def test_folders_in_a_flat_set_are_no_classes_now_or_later(project: Project) -> None:
    place = fill(project.path / "flat", {f"{seed}.png": picture(seed) for seed in range(30)})
    fill(place, {"one/a.png": picture(40), "two/b.png": picture(41)})
    assert "classes   none" in project.check("aigc", "add-data", "flat", "flat")
    assert entry(project, "flat")["acquire"]["labels"] is False
    project.check("dvc", "repro", "clean@flat")
    fill(place, {f"{name}/{seed}.png": picture(seed) for name in ("one", "two") for seed in range(50, 55)})
    assert "10 added, 0 changed, 0 removed; 10 read" in project.check("aigc", "data", "update", "flat")


def test_a_folder_too_deep_to_be_opened_is_one_entry(project: Project) -> None:
    fill(project.path / "pics", CLASSES)
    above = os.open(project.path / "pics", os.O_RDONLY)
    for _ in range(20):
        os.close(os.open("0.tar", os.O_CREAT | os.O_WRONLY, dir_fd=above))
        os.mkdir("d" * 250, dir_fd=above)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    said = project.check("aigc", "add-data", "deep", "pics")
    assert "unreadable folder 1" in said


def test_a_large_source_is_listed_whole_and_looked_at_evenly(project: Project) -> None:
    """The second half is of another size than the first; each is half of the sample, of 200 at most."""
    content = {f"{n:05d}.png": picture(n, 16 if n < 1500 else 48, 16) for n in range(3000)}
    packed(project.path / "many.zip", content)
    said = project.check("aigc", "add-data", "many", "many.zip", "--size", "8")
    assert "3,000; all of 200 looked at" in said
    assert "smallest 16×16, median 48×16, largest 48×16" in said


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["digits", "pics"], "params.yaml: datasets.digits: is in use already"),
        (["Bad/name", "pics"], "Bad/name: a name is made of a-z"),
        ([91 * "a", "pics"], "aaa*: a name is made of .*, 90 of them at most; choose another"),
        (["new", "set"], "set/cifar-10-binary.tar.gz: its md5 is .*, not .*, as that of CIFAR10 is; replace it"),
        (["new", "nowhere"], "nowhere: no such folder or file"),
        (["new", ""], "the source has no name; name a folder"),
        (["new", "~nobody-of-that-name/pics"], "~nobody-of-that-name/pics: no such user's home"),
        (["new", "http://[::1/pics"], r"http://\[::1/pics: no such folder or file"),
        (["new", "empty"], "empty: holds no pictures"),
        (["new", "words"], "words: none of 3 entries looked at is a picture .*not a picture 3"),
        (["new", "words/1.doc"], "words/1.doc: neither a folder nor an archive"),
        (
            ["new", "pics.tar.zst"],
            r"pics.tar.zst: neither a folder nor an archive \(zip, tar, tar.gz, tar.bz2\)",
        ),
        (["new", "broken.zip"], "broken.zip: not a whole archive"),
        (["new", "torchvision:Nothing"], ".*must be 'MNIST'"),
        (["new", "pics", "--size", "2"], ".*clean.size: must be greater than or equal to 4"),
        (["new", "pics", "--labels", "nowhere.csv"], "nowhere.csv: no such file"),
        (["new", "pics", "--kind", "foldr"], "--kind: there is no 'foldr'; did you mean 'folder'"),
        (["new", "pics", "--kind", "digits"], "--kind digits: is not read from a place"),
        (["new", "torchvision:MNIST", "--labels", "x.csv"], "--labels: .*torchvision brings its labels itself"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(project: Project, arguments: list[str], error: str) -> None:
    fill(project.path / "pics", CLASSES)
    fill(project.path / "words", {f"{n}.doc": b"words" for n in range(3)})
    fill(project.path / "set", {"cifar-10-binary.tar.gz": b"half of it"})
    fill(project.path, {"broken.zip": b"PK\x03\x04 and no more", "pics.tar.zst": b"(\xb5/\xfd"})
    (project.path / "empty").mkdir()
    before = (project.path / "params.yaml").read_bytes()
    done = project.run("aigc", "add-data", *arguments)
    assert done.returncode == 1
    assert re.fullmatch(f"error: {error}.*\n", done.stderr)
    assert (project.path / "params.yaml").read_bytes() == before


def test_of_several_at_once_each_is_written_and_a_name_once(project: Project) -> None:
    fill(project.path / "pics", CLASSES)
    names = ["one", "two", "three", "four", "same", "same"]
    started = [project.start("aigc", "add-data", name, "pics") for name in names]
    said = [process.communicate()[0] for process in started]
    assert all(entry(project, name)["acquire"]["source"] == "pics" for name in names)
    assert [process.returncode for process in started[:4]] == [0] * 4
    assert sorted(process.returncode for process in started[4:]) == [0, 1]
    assert sum("datasets.same: is in use already" in one for one in said) == 1


def test_a_hostile_name_does_not_reach_the_terminal(project: Project) -> None:
    content = {f"\x1b[2J{name}": data for name, data in CLASSES.items()}
    packed(project.path / "pics.zip", content)
    said = project.check("aigc", "add-data", "mean", "pics.zip")
    assert "\x1b" not in said
    assert r"\x1b[2Jcat 12" in said


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="as root this needs setpriv (util-linux)")
def test_a_folder_that_may_not_be_read_is_one_line(project: Project) -> None:
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    place = fill(project.path / "pics", CLASSES)
    place.chmod(0)
    done = project.run(*(drop if os.getuid() == 0 else []), "aigc", "add-data", "pets", "pics")
    place.chmod(0o755)
    assert done.returncode == 1
    assert re.fullmatch("error: .*pics: Permission denied.*\n", done.stderr)
