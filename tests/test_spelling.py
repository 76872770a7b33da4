"""Names that look the same are the same: a letter with an accent may be one character or two."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from aigc_tasks import acquire
from aigc_tasks.acquire import raw
from aigc_tasks.acquire.intake import take_in

FORMS = ("NFC", "NFD")  # as Windows and Linux write names, and as macOS does


def spelt(name: str, form: str) -> str:
    return unicodedata.normalize(form, name)  # type: ignore[arg-type]


def taken(place: Path, labels: Path | None = None) -> dict[str, tuple[str | None, str | None]]:
    """Label and flaw of each entry, by id."""
    knobs = {"kind": "folder", "source": str(place), "labels": str(labels) if labels else True}
    folder = place.parent / "raw/pics"
    take_in(acquire.source("folder").model_validate(knobs), folder, place.parent / "work")
    rows = [row for chunk in raw.chunks(folder) for row in raw.read(folder, chunk)]
    return {row.id: (row.label, row.flaw) for row in rows}


def test_a_class_is_one_however_its_letters_are_put_together(tmp_path: Path) -> None:
    for form in FORMS:
        (tmp_path / "place" / spelt("café", form)).mkdir(parents=True)
        (tmp_path / "place" / spelt("café", form) / "1.png").write_text(form)
    found = taken(tmp_path / "place")
    assert list(found) == [f"{spelt('café', form)}/1.png" for form in reversed(FORMS)]
    assert set(found.values()) == {(spelt("café", "NFC"), None)}


@pytest.mark.parametrize("written", FORMS)
@pytest.mark.parametrize("named", FORMS)
@pytest.mark.parametrize("above", ["", "été/"])
def test_a_csv_finds_a_picture_however_its_letters_are_put_together(
    tmp_path: Path, written: str, named: str, above: str
) -> None:
    picture, labels = tmp_path / "place/été" / spelt("naïve.png", named), tmp_path / "labels.csv"
    picture.parent.mkdir(parents=True)
    picture.write_text("a picture")
    labels.write_text(f"file,label\n{spelt(f'{above}naïve.png,fée', written)}\n")
    assert list(taken(tmp_path / "place", labels).values()) == [(spelt("fée", "NFC"), None)]
