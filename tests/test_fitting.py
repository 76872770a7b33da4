"""Pictures of many sizes and modes become arrays of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import fill
from pictures import SIZE, encoded, noise
from PIL import Image

from aigc_tasks.clean import Knobs
from aigc_tasks.clean.fitting import busiest, fitted
from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image


def pixels(picture: Image.Image) -> np.ndarray:
    """C×H×W."""
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def mixed(count: int, odd: int) -> dict[str, bytes]:
    """Pictures of one size, the last of them of others."""
    sizes = [SIZE] * (count - odd) + [(30 + number, 20) for number in range(odd)]
    return {f"{number:02d}.png": encoded(noise(number, size=size)) for number, size in enumerate(sizes)}


def test_images_of_another_size_are_dropped_while_they_are_few(tmp_path: Path, cleaned: Any) -> None:
    data, manifest = cleaned(fill(tmp_path / "pics", mixed(20, 3)))
    assert data.shape == (3, 10, 12)
    assert list(manifest["reason"].dropna()) == [f"size differs ({30 + number}×20)" for number in range(3)]


def test_images_of_many_sizes_ask_for_one(tmp_path: Path, cleaned: Any) -> None:
    with pytest.raises(UserError, match=r"^params.yaml: datasets.pics.clean.size: 11 of 20 .* set it") as error:
        cleaned(fill(tmp_path / "pics", mixed(20, 11)))
    assert "\n" not in str(error.value)
    data, manifest = cleaned(tmp_path / "pics", size=16)
    assert data.shape == (3, 16, 16)
    assert manifest["reason"].isna().all()
    again, first = cleaned(tmp_path / "pics", size=8)
    assert again.shape == (3, 8, 8)
    assert (first["split"] == manifest["split"]).all()


def test_grey_and_colour_together_are_colour(tmp_path: Path, cleaned: Any) -> None:
    greys = {f"{seed:02d}.png": encoded(noise(seed, "L")) for seed in range(20)}
    blank = {"blank.png": encoded(Image.new("RGB", SIZE))}
    place = fill(tmp_path / "grey", greys | blank)
    data, manifest = cleaned(place)
    assert data.shape == (1, 10, 12)  # a blank one does not count
    assert manifest.loc["blank.png", "reason"] == "blank"
    fill(place, {"colour.png": encoded(noise(99))})
    data, manifest = cleaned(place)
    assert data.shape == (3, 10, 12)
    assert manifest["reason"].notna().sum() == 1
    row = manifest.loc["03.png"]
    assert (getattr(data, row["split"]).images[row["row"]] == pixels(noise(3, "L"))).all()
    data, manifest = cleaned(place, colour="grey")
    assert data.shape == (1, 10, 12)
    row = manifest.loc["colour.png"]
    assert (getattr(data, row["split"]).images[row["row"]] == pixels(noise(99).convert("L"))).all()
    assert cleaned(fill(tmp_path / "other", greys), colour="rgb")[0].shape == (3, 10, 12)


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


def test_a_fitted_picture_is_the_smoothed_middle_of_it() -> None:
    squares = Image.fromarray(np.where(np.indices((64, 64)).sum(0) % 2, 255, 0).astype(np.uint8))
    for resample in ("lanczos", "area"):
        small = np.asarray(fitted(squares, Knobs(size=16, resample=resample)), int)
        assert np.abs(small[2:-2, 2:-2] - 127).max() <= 2  # no moiré
    wide = noise(1, size=(60, 20))
    middle = np.asarray(wide.crop((20, 0, 40, 20)).resize((10, 10), Image.Resampling.LANCZOS), int)
    assert np.abs(np.asarray(fitted(wide, Knobs(size=10)), int) - middle)[:, 2:-2].max() <= 2
    assert fitted(noise(1, size=(1, 1)), Knobs(size=32)).size == (32, 32)
    assert fitted(wide, Knobs()) is wide


@pytest.mark.parametrize("crop", ["centre", "smart", "pad", "stretch"])
def test_every_crop_gives_a_square(crop: str) -> None:
    for size in ((60, 20), (20, 60), (7, 7)):
        assert fitted(noise(1, size=size), Knobs(size=16, crop=crop)).size == (16, 16)


def test_padding_keeps_all_and_a_smart_crop_what_has_edges() -> None:
    picture = Image.new("RGB", (90, 30))
    picture.paste(noise(1, size=(30, 30)), (60, 0))
    assert np.asarray(fitted(picture, Knobs(size=30, crop="pad")))[:9].max() == 0
    assert np.asarray(fitted(picture, Knobs(size=30, crop="centre"))).max() == 0
    assert np.asarray(fitted(picture, Knobs(size=30, crop="smart"))).std() > 60
    assert busiest(picture)[0] > 0.9
    assert busiest(picture.rotate(90, expand=True))[1] < 0.1
