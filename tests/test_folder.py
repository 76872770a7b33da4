"""Any folder of images: what is read from it, how it is labelled and divided, and how the images become of one size."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED, Project
from PIL import Image
from ruamel.yaml import YAML

from aigc_tasks import layout, recipe
from aigc_tasks.acquire import Sample, folder
from aigc_tasks.acquire.__main__ import acquire
from aigc_tasks.clean import arrays
from aigc_tasks.clean.cleaning import clean
from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image

SIZE = (12, 10)  # width and height: not a square, so that a confusion of the two is seen


def noise(seed: int, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture that no other seed gives."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def files(place: Path, content: dict[str, bytes]) -> Path:
    """A folder with these files in it."""
    for name, data in content.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def zipped(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, content: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def fetched(place: Path, raw: Path, labels: bool | None = None) -> list[Sample]:
    """What the source reads back after it has brought ``place`` to ``raw``."""
    source = folder.Source(kind="folder", source=str(place), labels=labels)
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir()
    source.fetch(raw)
    return list(source.samples(raw))


def pixels(picture: Image.Image) -> np.ndarray:
    """C×H×W."""
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.fixture
def cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[arrays.Clean, pd.DataFrame]]:
    """Runs the two stages on a place; returns the data set and its manifest by id."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")

    def run(place: Path, labels: bool | None = None, **knobs: Any) -> tuple[arrays.Clean, pd.DataFrame]:
        source = {"kind": "folder", "source": str(place)} | ({} if labels is None else {"labels": labels})
        table = {"datasets": {"pics": {"acquire": source, "clean": knobs, "features": {}}}, "recipes": {}}
        YAML().dump(table, layout.PARAMS)
        acquire("pics")
        clean("pics")
        place = layout.clean("pics")
        return arrays.load(place), pd.read_parquet(place / "manifest.parquet").set_index("id")

    return run


LEVELS = np.arange(120, dtype=np.uint16).reshape(10, 12) * 550
GREY, COLOUR = noise(1, "L"), noise(2)
BITS = noise(3, "L").convert("1")
PALETTE = noise(4).convert("P", palette=Image.Palette.ADAPTIVE)
HALF = Image.merge("RGBA", (*COLOUR.split(), noise(5, "L")))
HALF_GREY = Image.merge("LA", (GREY, noise(5, "L")))
CMYK = COLOUR.resize((2, 2)).resize((64, 64)).convert("CMYK")


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.round((pixels * (alpha / 255.0)) + 255 * (1 - alpha / 255.0))


MODES = {
    "grey.png": (encoded(GREY), pixels(GREY)),
    "colour.png": (encoded(COLOUR), pixels(COLOUR)),
    "bits.png": (encoded(BITS), pixels(BITS.convert("L"))),
    "palette.png": (encoded(PALETTE), pixels(PALETTE.convert("RGB"))),
    "grey palette.png": (encoded(GREY.convert("RGB").quantize(256)), pixels(GREY)),
    "alpha.png": (encoded(HALF), over_white(pixels(COLOUR), pixels(noise(5, "L")))),
    "grey alpha.png": (encoded(HALF_GREY), over_white(pixels(GREY), pixels(noise(5, "L")))),
    "clear colour.png": (
        encoded(Image.new("RGB", (2, 1), "red"), transparency=(255, 0, 0)),
        np.full((3, 1, 2), 255),
    ),
    "16 bits.png": (encoded(Image.fromarray(LEVELS)), np.round(LEVELS / 257)[None]),
    "16 bits.pgm": (b"P5 12 10 65535\n" + LEVELS.astype(">u2").tobytes(), np.round(LEVELS / 257)[None]),
    "16 bits.tif": (encoded(Image.fromarray(LEVELS), "TIFF"), np.round(LEVELS / 257)[None]),
    "cmyk.tiff": (encoded(CMYK, "TIFF"), pixels(CMYK.convert("RGB"))),
    "cmyk.jpg": (encoded(CMYK, "JPEG", quality=100), pixels(CMYK.convert("RGB"))),
    "grey.jpg": (encoded(GREY.resize((1, 1)).resize(SIZE), "JPEG"), pixels(GREY.resize((1, 1)).resize(SIZE))),
    "colour.webp": (encoded(COLOUR, "WEBP", lossless=True), pixels(COLOUR)),
    "colour.BMP": (encoded(COLOUR, "BMP"), pixels(COLOUR)),
    "colour.ppm": (encoded(COLOUR, "PPM"), pixels(COLOUR)),
    "animation.gif": (
        encoded(PALETTE, "GIF", save_all=True, append_images=[noise(6).convert("P")]),
        pixels(PALETTE.convert("RGB")),
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_grey_or_rgb(tmp_path: Path, name: str) -> None:
    data, expected = MODES[name]
    (sample,) = fetched(files(tmp_path / "pics", {name: data}), tmp_path / "raw")
    assert sample.flaw is None
    assert sample.image is not None
    assert sample.image.dtype == np.uint8
    assert sample.image.shape == expected.shape
    tolerance = 6 if "jpg" in name else 1 if "alpha" in name else 0  # Pillow rounds alpha its own way
    assert np.abs(sample.image.astype(int) - expected).max() <= tolerance


def test_a_picture_that_lies_on_its_side_is_turned_up(tmp_path: Path) -> None:
    turn = Image.Exif()
    turn[0x0112] = 6  # to be shown turned by 90° clockwise
    for name, form in (("a.png", "PNG"), ("b.jpg", "JPEG")):
        place = files(tmp_path / form, {name: encoded(COLOUR, form, exif=turn)})
        (sample,) = fetched(place, tmp_path / "raw")
        assert sample.image is not None
        assert sample.image.shape == (3, SIZE[0], SIZE[1])
        if form == "PNG":
            assert (sample.image == np.rot90(pixels(COLOUR), -1, (1, 2))).all()


def test_what_cannot_be_read_is_a_flaw_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cleaned: Any
) -> None:
    good = {f"{seed}.png": encoded(noise(seed)) for seed in range(20)}
    monkeypatch.setattr(folder, "LARGEST", 50_000)
    bad = {
        "bomb.png": encoded(Image.new("1", (12_000, 8_000))),  # more pixels than Pillow takes for safe
        "cut.jpg": encoded(noise(0, size=(80, 80)), "JPEG")[:-900],
        "cut.png": good["0.png"][:-40],
        "empty.gif": b"",
        "float.tif": encoded(Image.fromarray(np.ones((10, 12), np.float32)), "TIFF"),
        "large.png": encoded(noise(0, size=(200, 200))),
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "text.jpg": b"404 not found\n",
    }
    data, manifest = cleaned(files(tmp_path / "pics", good | bad))
    assert data.shape == (3, 10, 12)
    assert manifest["reason"].dropna().to_dict() == dict.fromkeys(bad, "unreadable")
    assert manifest.loc[list(bad), "sha256"].isna().all()
    assert json.loads((layout.clean("pics") / "report.json").read_text())["dropped"] == {"unreadable": len(bad)}


def test_a_damaged_entry_does_not_stop_the_archive(tmp_path: Path) -> None:
    path = zipped(tmp_path / "pics.zip", {f"{seed}.png": encoded(noise(seed)) for seed in range(4)})
    content = bytearray(path.read_bytes())
    content[60:64] = b"\xff" * 4
    path.write_bytes(content)
    assert [sample.flaw for sample in fetched(path, tmp_path / "raw")] == ["unreadable", None, None, None]


TREE = {f"{name}/{seed}.png": encoded(noise(seed + 100 * len(name))) for name in ("cat", "horse") for seed in range(20)}


def test_class_folders_are_labels(tmp_path: Path, cleaned: Any) -> None:
    data, manifest = cleaned(files(tmp_path / "pics", TREE | {"stray.png": encoded(noise(7))}))
    assert data.classes == ["cat", "horse"]
    assert manifest.loc["cat/3.png", "label"] == "cat"
    assert manifest.loc["cat/3.png", "source"] == "files.zip"
    assert manifest.loc["stray.png", "reason"] == "in no class folder"
    assert manifest["split"].value_counts().to_dict() == {"train": 28, "test": 8, "val": 4}


def test_without_class_folders_there_are_no_labels(tmp_path: Path) -> None:
    flat = {name.replace("/", "-"): data for name, data in TREE.items()}
    one_folder = {f"faces/{name}": data for name, data in flat.items()}
    cases = [(flat, None, None), (one_folder, None, None), (one_folder, True, "faces"), (TREE, False, None)]
    for number, (content, labels, label) in enumerate(cases):
        samples = fetched(files(tmp_path / str(number), content), tmp_path / "raw", labels)
        assert {(sample.label, sample.flaw) for sample in samples} == {(label, None)}
        assert len(samples) == len(TREE)


@pytest.mark.parametrize("name", ["pics.zip", "pics.tar", "pics.tar.gz", "pics.TGZ"])
def test_an_archive_is_copied_as_it_is_and_read_in_the_order_of_its_paths(tmp_path: Path, name: str) -> None:
    content = {f"./{name}": data for name, data in reversed(TREE.items())}
    path = (zipped if name.endswith("zip") else tarred)(tmp_path / name, content)
    samples = fetched(path, tmp_path / "raw")
    assert (tmp_path / "raw" / name).read_bytes() == path.read_bytes()
    assert [sample.id for sample in samples] == [f"pics/{name}" for name in sorted(TREE)]
    assert {sample.source for sample in samples} == {name}
    for sample in samples:
        key = sample.id.removeprefix("pics/")
        assert sample.label == key.split("/")[0]
        assert (sample.image == pixels(Image.open(io.BytesIO(TREE[key])))).all()


def test_archives_and_loose_pictures_lie_side_by_side(tmp_path: Path) -> None:
    place = files(tmp_path / "pics", {"cat/1.png": encoded(noise(1)), "notes.txt": b"x", ".hidden/2.png": b"x"})
    zipped(place / "test.zip", {"cat/1.png": encoded(noise(2)), "__MACOSX/cat/._1.png": b"x"})
    tarred(place / "train.tar", {"horse/1.png": encoded(noise(3)), "horse/.1.png": b"x"})
    zipped(place / ".old.zip", {"cat/9.png": encoded(noise(4))})
    found = [(sample.id, sample.source, sample.label, sample.split) for sample in fetched(place, tmp_path / "raw")]
    assert found == [
        ("cat/1.png", "files.zip", "cat", None),
        ("test/cat/1.png", "test.zip", "cat", "test"),
        ("train/horse/1.png", "train.tar", "horse", "train"),
    ]


def test_a_sources_own_splits_stay_and_are_no_classes(tmp_path: Path, cleaned: Any) -> None:
    names = {"Training": "train", "valid": "val", "testing": "test"}
    content = {
        f"{split}/{label}/{seed}.png": encoded(noise(seed + 50 * number + 1000 * len(label)))
        for number, split in enumerate(names)
        for label in ("cat", "horse")
        for seed in range(10)
    }
    content["Training/cat/twin.png"] = content["valid/cat/3.png"]
    data, manifest = cleaned(files(tmp_path / "pics", content))
    assert data.classes == ["cat", "horse"]
    for name, split in names.items():
        kept = manifest[manifest["split"] == split]
        assert len(kept) == 20
        assert {Path(sample).parts[0] for sample in kept.index} == {name}
    assert manifest.loc["Training/cat/twin.png", "reason"] == "duplicate of valid/cat/3.png"


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, cleaned: Any) -> None:
    written = []
    for number, names in enumerate((list(TREE), list(reversed(TREE)))):
        place = files(tmp_path / str(number), {name: TREE[name] for name in names})
        for name in names[::3]:
            os.utime(place / name, (number, number))
            (place / name).chmod(0o600 + number)
        cleaned(place)
        outputs = [*layout.raw("pics").iterdir(), *layout.clean("pics").iterdir()]
        written.append({file.name: file.read_bytes() for file in outputs})
    assert written[0] == written[1]
    assert list(zipfile.ZipFile(io.BytesIO(written[0]["files.zip"])).namelist()) == sorted(TREE)


def test_links_are_followed_inside_the_source_alone(tmp_path: Path) -> None:
    outside = files(tmp_path / "outside", {"secret.png": encoded(noise(1))})
    place = files(tmp_path / "pics", {"a.png": encoded(noise(2))})
    (place / "inside.png").symlink_to(place / "a.png")
    (place / "outside.png").symlink_to(outside / "secret.png")
    (place / "broken.png").symlink_to(place / "nowhere.png")
    (place / "folder").symlink_to(outside)
    (place / "loop").symlink_to(place)
    assert [sample.id for sample in fetched(place, tmp_path / "raw")] == ["a.png", "inside.png"]


@pytest.mark.parametrize("name", ["pics.zip", "pics.tar"])
def test_entries_that_point_outside_are_pictures_like_any_other(tmp_path: Path, name: str) -> None:
    content = {"../../up.png": encoded(noise(1)), "/root.png": encoded(noise(2)), "c/../a.png": encoded(noise(3))}
    path = (zipped if name.endswith("zip") else tarred)(tmp_path / "in" / name, content)
    samples = fetched(path, tmp_path / "raw")
    assert len(samples) == 3
    assert all(sample.image is not None and sample.label is None for sample in samples)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", name, name, "raw"]


def test_names_that_are_not_unicode_are_spelled_out(tmp_path: Path, cleaned: Any) -> None:
    place = files(tmp_path / "pics", {f"{seed}.png": encoded(noise(seed)) for seed in range(20)})
    Path(os.fsdecode(bytes(place) + b"/caf\xe9.png")).write_bytes(encoded(noise(30)))
    _, manifest = cleaned(place)
    assert "caf\\xe9.png" in manifest.index


WRONG = {
    "missing": (lambda place: None, "no such folder or file; set `source` in params.yaml"),
    "a text": (lambda place: place.write_text("x"), "neither a folder nor an archive; set `source` in params.yaml"),
    "empty": (lambda place: place.mkdir(), "holds no pictures"),
    "no pictures": (lambda place: files(place, {"a.txt": b"x", "b.csv": b"y"}), "holds no pictures"),
    "broken.zip": (lambda place: place.write_bytes(b"PK"), "broken.zip: not a whole archive; replace it, or set `so"),
    "broken.tar": (lambda place: place.write_bytes(b"x" * 9), "broken.tar: not a whole archive"),
    "page.tgz": (lambda place: place.write_text("<html>"), "page.tgz: not a whole archive"),
    "cut.tar.gz": (
        lambda place: place.write_bytes(tarred(place, TREE).read_bytes()[:-99]),
        "cut.tar.gz: not a whole archive",
    ),
    "names": (
        lambda place: zipped(files(place, {"a.png": encoded(GREY)}) / "files.zip", {"b.png": encoded(COLOUR)}),
        "files.zip: the pictures beside it are packed under this name; rename it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_source_is_one_clear_line(tmp_path: Path, name: str) -> None:
    make, message = WRONG[name]
    make(tmp_path / name)  # type: ignore[no-untyped-call]
    with pytest.raises(UserError) as error:
        fetched(tmp_path / name, tmp_path / "raw")
    assert name in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_are_not_there_are_one_clear_line(tmp_path: Path) -> None:
    place = files(tmp_path / "pics", {"a.png": encoded(GREY), "train/b.png": encoded(COLOUR)})
    with pytest.raises(UserError, match=r"`labels` is true in params\.yaml, but no picture lies in a class folder"):
        fetched(place, tmp_path / "raw", labels=True)


def mixed(count: int, odd: int) -> dict[str, bytes]:
    """Pictures of one size, the last of them of others."""
    sizes = [SIZE] * (count - odd) + [(30 + number, 20) for number in range(odd)]
    return {f"{number:02d}.png": encoded(noise(number, size=size)) for number, size in enumerate(sizes)}


def test_images_of_another_size_are_dropped_while_they_are_few(tmp_path: Path, cleaned: Any) -> None:
    data, manifest = cleaned(files(tmp_path / "pics", mixed(20, 3)))
    assert data.shape == (3, 10, 12)
    assert list(manifest["reason"].dropna()) == [f"size differs (3×20×{30 + number})" for number in range(3)]


def test_images_of_many_sizes_ask_for_one(tmp_path: Path, cleaned: Any) -> None:
    with pytest.raises(UserError, match=r"^params.yaml: datasets.pics.clean.size: 11 of 20 .* set it") as error:
        cleaned(files(tmp_path / "pics", mixed(20, 11)))
    assert "\n" not in str(error.value)
    data, manifest = cleaned(tmp_path / "pics", size=16)
    assert data.shape == (3, 16, 16)
    assert manifest["reason"].isna().all()
    again, first = cleaned(tmp_path / "pics", size=8)
    assert again.shape == (3, 8, 8)
    assert (first["sha256"] == manifest["sha256"]).all()  # the picture as the source gives it


def test_grey_and_colour_together_are_colour(tmp_path: Path, cleaned: Any) -> None:
    greys = {f"{seed:02d}.png": encoded(noise(seed, "L")) for seed in range(20)}
    blank = {"blank.png": encoded(Image.new("RGB", SIZE))}
    place = files(tmp_path / "grey", greys | blank)
    data, manifest = cleaned(place)
    assert data.shape == (1, 10, 12)  # a blank one does not count
    assert manifest.loc["blank.png", "reason"] == "blank"
    files(place, {"colour.png": encoded(noise(99))})
    data, manifest = cleaned(place)
    assert data.shape == (3, 10, 12)
    assert manifest["reason"].notna().sum() == 1
    row = manifest.loc["03.png"]
    assert (getattr(data, row["split"]).images[row["row"]] == pixels(noise(3, "L"))).all()
    data, manifest = cleaned(place, colour="grey")
    assert data.shape == (1, 10, 12)
    row = manifest.loc["colour.png"]
    assert (getattr(data, row["split"]).images[row["row"]] == pixels(noise(99).convert("L"))).all()
    assert cleaned(files(tmp_path / "other", greys), colour="rgb")[0].shape == (3, 10, 12)


def test_a_fitted_image_is_the_smoothed_middle_of_it() -> None:
    whole = pixels(noise(1, size=(16, 16)))
    assert image.fitted(whole, 16) is whole
    squares = np.where(np.indices((64, 64)).sum(0) % 2, 255, 0).astype(np.uint8)[None]
    assert np.abs(image.fitted(squares, 16)[:, 2:-2, 2:-2].astype(int) - 127).max() <= 2  # no moiré
    picture = noise(1, size=(60, 20))
    reduced = picture.resize((30, 10), Image.Resampling.LANCZOS)
    wide = pixels(picture)
    assert (image.fitted(wide, 10) == pixels(reduced)[:, :, 10:20]).all()
    assert (image.fitted(wide.transpose(0, 2, 1), 10) == pixels(reduced)[:, :, 10:20].transpose(0, 2, 1)).all()
    assert image.fitted(wide[:1, :1], 32).shape == (1, 32, 32)


OFFER = {
    "datasets": {"pics": {"acquire": {"kind": "folder"}, "clean": {"size": 16}, "features": {}}},
    "recipes": {
        "pics-gan": {"dataset": "pics", "family": "gan", "network": "resnet"}
        | {section: {} for section in ("model", "train", "postprocess", "evaluate")}
    },
}


def offered(project: Project) -> None:
    """A ready-made recipe whose data only its user has, and a second one of the same data set."""
    yaml = YAML()
    yaml.dump(OFFER, project.path / "recipes/pics-gan.yaml")
    second = {"datasets": OFFER["datasets"], "recipes": {"pics-other": OFFER["recipes"]["pics-gan"]}}
    yaml.dump(second, project.path / "recipes/pics-other.yaml")


def refused(project: Project, *command: str) -> str:
    """The one line with which the command ends."""
    before = (project.path / "params.yaml").read_bytes()
    done = project.run("aigc", *command)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert (project.path / "params.yaml").read_bytes() == before
    return done.stderr


def test_a_recipe_is_taken_with_the_place_of_its_data(here: Project, tmp_path: Path) -> None:
    offered(here)
    assert "say it: aigc add pics-gan --source PLACE" in refused(here, "add", "pics-gan")
    here.check("aigc", "add", "mnist-mlpgan", "--source", "~/mnist")
    assert recipe.dataset("mnist").acquire.model_dump()["source"] == "~/mnist"
    files(tmp_path / "place", TREE)
    assert "datasets.pics" in here.check("aigc", "add", "pics-gan", "--source", "../place")
    assert recipe.dataset("pics").acquire.model_dump()["source"] == "../place"
    assert "in use already as ../place" in refused(here, "add", "pics-other", "--source", "elsewhere")
    assert here.check("aigc", "add", "pics-other").startswith("params.yaml: added recipes.pics-other;")
    here.check("dvc", "repro", "clean@pics")
    assert arrays.load(layout.clean("pics")).shape == (3, 16, 16)


def test_a_place_is_refused_where_the_data_set_has_none(here: Project) -> None:
    here.edit(lambda params: params.update(recipes={}, datasets={}))
    assert "is of kind digits, which has no source" in refused(here, "add", "digits-gan", "--source", "x")


def test_a_broken_offer_is_named_with_its_file(here: Project) -> None:
    offered(here)
    path = here.path / "recipes/pics-gan.yaml"
    path.write_text(path.read_text().replace("size: 16", "size: 1"))
    message = refused(here, "add", "pics-gan", "--source", "x")
    assert message.startswith("error: recipes/pics-gan.yaml: datasets.pics.clean.size: must be greater than or equal")


def shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is missing: the real files are needed")
    return SHARED / name


def test_real_faces_of_forty_people(cleaned: Any) -> None:
    data, manifest = cleaned(shared("orl-faces"), size=32, colour="grey")
    assert data.shape == (1, 32, 32)
    assert len(data.classes) == 40
    assert len(manifest) == 400
    assert manifest.loc["orl-faces/orl-faces/s7/3.pgm", "label"] == "s7"


def test_real_cifar_in_two_archives(tmp_path: Path) -> None:
    source = folder.Source(kind="folder", source=str(shared("cifar10-jpg")))
    source.fetch(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["test.zip", "train.zip"]
    first = next(source.samples(tmp_path))
    assert first[:4] == ("test/test/airplane/0000.jpg", "test.zip", "airplane", "test")
    (tmp_path / "test.zip").unlink()
    train = list(itertools.islice(source.samples(tmp_path), 10))
    assert {(sample.label, sample.split) for sample in train} == {("airplane", "train")}
    assert {sample.image.shape for sample in train if sample.image is not None} == {(3, 32, 32)}
