"""Any file as plain pixels, or the reason why there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import SIZE, bomb, encoded, noise
from PIL import Image, ImageCms, ImageFilter

from aigc_tasks.clean import Checks, Knobs
from aigc_tasks.clean.decoding import Flaw, Picture, decoded
from aigc_tasks.clean.fitting import fitted


def smooth(mode: str = "RGB") -> Image.Image:
    """A picture that survives JPEG."""
    return Image.radial_gradient("L").resize(SIZE).convert(mode)


def read(content: bytes, name: str = "a.png", **knobs: Any) -> Picture:
    return decoded(content, name, Knobs(**knobs))


def close(picture: Image.Image, to: Image.Image) -> bool:
    return bool(np.abs(np.asarray(picture, int) - np.asarray(to, int)).max() <= 8)


def test_grey_and_rgb_come_as_they_are() -> None:
    for mode in ("L", "RGB"):
        found = read(encoded(noise(1, mode)))
        assert found.pixels.mode == found.mode == mode
        assert (np.asarray(found.pixels) == np.asarray(noise(1, mode))).all()
        assert found.flags == []


def palette(picture: Image.Image) -> Image.Image:
    return picture.quantize(256, dither=Image.Dither.NONE)


def seen_through(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    picture.putalpha(0)
    return picture


deep = (np.arange(120).reshape(10, 12) * 500).astype(np.uint16)
MODES = {
    "CMYK": (encoded(smooth("CMYK"), "JPEG", quality=100), "a.jpg", smooth(), "odd mode (CMYK)"),
    "palette": (encoded(palette(noise(1))), "a.png", palette(noise(1)).convert("RGB"), "odd mode (palette)"),
    "grey palette": (encoded(palette(smooth("L"))), "a.png", palette(smooth("L")).convert("L"), "odd mode (palette)"),
    "alpha": (
        encoded(seen_through(noise(1))),
        "a.png",
        Image.new("RGB", SIZE, "white"),
        "odd mode (transparency on white)",
    ),
    "16 bit": (
        encoded(Image.fromarray(deep)),
        "a.png",
        Image.fromarray(np.round(deep / 257).astype(np.uint8)),
        "odd mode (16 bit)",
    ),
    "YCbCr": (encoded(smooth("YCbCr"), "TIFF"), "a.tif", smooth(), "odd mode (YCbCr)"),
}


@pytest.mark.parametrize("name", MODES)
def test_odd_modes_are_converted_rightly(name: str) -> None:
    content, file, expected, flag = MODES[name]
    found = read(content, file)
    assert found.pixels.mode == expected.mode
    assert close(found.pixels, expected)
    assert found.flags == [flag]
    assert read(content, file, checks=Checks(odd_mode="off")).flags == []
    assert read(content, file, checks=Checks(odd_mode="drop")).reason == flag


def test_one_bit_is_grey() -> None:
    assert read(encoded(noise(1, "L").convert("1"))).pixels.mode == "L"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(orientation: int) -> None:
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that undoes what the camera would show
    upright = noise(1)
    stored = upright.transpose(Image.Transpose(turn[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(encoded(stored, exif=exif))
    assert found.pixels.size == SIZE
    assert (np.asarray(found.pixels) == np.asarray(upright)).all()
    assert found.flags == (["odd mode (turned upright)"] if orientation > 1 else [])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(401, 400), (640, 480), (1601, 903)])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(smooth().resize(size, Image.Resampling.BICUBIC), "JPEG", exif=exif)
    whole, sparing = read(content, "a.jpg"), read(content, "a.jpg", size=32)
    assert sparing.size == whole.size == whole.pixels.size == (size[::-1] if orientation > 4 else size)
    assert 2 * 32 <= min(sparing.pixels.size) <= min(size) // 2 + 1
    for crop in ("centre", "stretch", "pad"):
        knobs = Knobs(size=32, crop=crop)
        expected, found = (np.asarray(fitted(one.pixels, knobs, one.margins), int) for one in (whole, sparing))
        assert np.abs(expected - found).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_a_decoder_rounds_up_moves_nothing(orientation: int) -> None:
    """A JPEG 89 pixels wide is 45 wide at a half, of which the last shows but half a pixel."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn = Image.new("RGB", (89, 109), "white")
    drawn.paste("black", (60, 70, 74, 84))
    content = encoded(drawn.filter(ImageFilter.GaussianBlur(2)), "JPEG", exif=exif, quality=95)
    whole, sparing = read(content, "a.jpg"), read(content, "a.jpg", size=16)
    expected, found = (np.asarray(fitted(one.pixels, Knobs(size=16), one.margins), int) for one in (whole, sparing))
    assert min(sparing.pixels.size) == 45
    assert np.abs(expected - found).max() <= 5


def test_damage_is_found_in_a_large_jpeg_that_is_decoded_smaller() -> None:
    content = encoded(noise(1, size=(641, 481)), "JPEG")
    short = content[:-9000]
    with pytest.raises(Flaw, match="truncated"):
        read(short, "a.jpg", size=32)
    assert read(short + bytes(9000), "a.jpg", size=32).reason == "truncated"
    rest = read(short, "a.jpg", size=32, checks=Checks(truncated="flag"))
    assert rest.size == rest.pixels.size == (641, 481)
    assert not any(rest.margins)


def test_a_profile_of_another_space_is_followed_and_that_of_srgb_is_not() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read(encoded(noise(1), icc_profile=lab)).flags == []
    assert read(encoded(noise(1), icc_profile=b"nonsense" * 40)).flags == []


FLAWS = {
    "empty": (b"", "a.png", "unreadable (empty file)"),
    "text": (b"hello" * 99, "a.png", "unreadable (no picture inside)"),
    "a note": (b"hello" * 99, "notes.txt", "not a picture"),
    "html": (b"<!DOCTYPE html><html>", "a.jpg", "unreadable (no picture inside)"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a.svg", "not a picture"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.eps", "not a picture"),
    "cut png": (encoded(noise(1, size=(99, 99)))[:-9999], "a.png", "truncated"),
    "cut jpeg": (encoded(noise(1, size=(99, 99)), "JPEG")[:-3000], "a.jpg", "truncated"),
    "only a header": (encoded(noise(1))[:33], "a.png", "unreadable (no picture inside)"),
    "bomb": (bomb(40_000, 40_000), "a.png", "bomb (40000×40000)"),
    "float": (encoded(Image.new("F", SIZE, 0.5), "TIFF"), "a.tif", "unreadable (numbers of an unknown range)"),
    "32 bit": (encoded(Image.new("I", SIZE, 1 << 20), "TIFF"), "a.tif", "unreadable (more than 16 bits)"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_what_cannot_be_used_says_why(name: str) -> None:
    content, file, reason = FLAWS[name]
    with pytest.raises(Flaw) as flaw:
        read(content, file)
    assert str(flaw.value) == reason


def test_a_truncated_picture_can_be_kept() -> None:
    content = encoded(noise(1, size=(99, 99)), "JPEG")[:-3000]
    found = read(content, "a.jpg", checks=Checks(truncated="flag"))
    assert found.pixels.size == (99, 99)
    assert found.flags == ["truncated"]
    with pytest.raises(Flaw):  # what was allowed once is not left allowed
        read(content, "a.jpg")


def test_an_animation_is_dropped_or_gives_its_first_frame() -> None:
    content = encoded(noise(1, "L"), "GIF", save_all=True, append_images=[noise(2, "L"), noise(3, "L")])
    assert read(content, "a.gif").reason == "animation (3 frames)"
    found = read(content, "a.gif", checks=Checks(animation="flag", odd_mode="off"))
    assert found.reason is None
    assert found.flags == ["animation (3 frames)"]
    assert close(found.pixels.convert("L"), noise(1, "L"))


def test_a_wrong_ending_is_noticed_and_an_unknown_one_is_not() -> None:
    content = encoded(smooth(), "JPEG")
    assert read(content, "a.png").flags == ["wrong type (JPEG behind .png)"]
    assert read(content, "a.PNG", checks=Checks(wrong_type="drop")).reason == "wrong type (JPEG behind .png)"
    for name in ("a.jpg", "a.JPEG", "a", "a.cls", "a.tmp"):
        assert read(content, name).flags == []


WHOLE = [encoded(noise(1), form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "AVIF")]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_no_damage_does_more_than_give_a_reason(whole: bytes, data: st.DataObject) -> None:
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        found = read(bytes(content), "a.png", pixels=1_000_000)
    except Flaw as flaw:
        assert str(flaw)  # noqa: PT017 (what else is to be said of any damage)
    else:
        assert found.pixels.mode in ("L", "RGB")
        assert found.pixels.width * found.pixels.height <= 1_000_000
