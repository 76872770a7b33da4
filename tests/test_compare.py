"""``aigc compare``: what is starred, what is said where figures do not compare, and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, with_every_family
from matplotlib import image as images
from PIL import Image
from ruamel.yaml import YAML

from aigc_tasks.compare import PICTURE, compare, draw
from aigc_tasks.errors import UserError

GAN, VAE = "digits-gan", "digits-vae"


def figures(fid: float, **other: float) -> dict[str, float]:
    found = {
        "samples": 1000,
        "test_images": 300,
        "features": 64,
        "fid": fid,
        "fid_low": 0.9 * fid,
        "fid_high": 1.1 * fid,
    }
    found |= {"fid_floor": 0.5, "fid_ratio": fid / 0.5, "precision": 0.9, "recall": 0.8, "coverage": 0.7}
    return found | other


def measured(
    name: str, found: dict[str, float], judge: str = "1234567890", dataset: str = "digits", **knobs: int
) -> None:
    """As an evaluation leaves it: figures and grid in ``reports/``, the judge and the knobs it used in ``dvc.lock``."""
    folder = Path("reports") / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.json").write_text(json.dumps(found))
    Image.fromarray(np.full((40, 60), 200, np.uint8)).save(folder / "grid.png")
    yaml, lock = YAML(typ="safe"), Path("dvc.lock")
    known: dict[str, Any] = yaml.load(lock.read_text()) if lock.exists() else {"schema": "2.0", "stages": {}}
    used = {"path": f"data/features/{dataset}", "hash": "md5", "md5": judge}
    section = {"params.yaml": {f"recipes.{name}.evaluate": knobs}}
    made = {"cmd": f"python -m aigc_tasks.evaluate {name}", "deps": [used], "params": section, "outs": []}
    known["stages"][f"evaluate@{name}"] = made
    with open(lock, "w") as file:
        yaml.dump(known, file)


@pytest.fixture
def families(here: Project) -> Project:
    return with_every_family(here)


def starred(table: str) -> list[str]:
    return [line.split()[0] for line in table.splitlines() if line.rstrip().endswith(" *") or " * " in line[3:]]


def test_the_clear_winner_is_starred_and_changes_since_are_said(families: Project) -> None:
    measured(GAN, figures(0.6))
    measured(VAE, figures(2.0))
    said = compare([GAN, VAE])
    assert "fid_ratio" in starred(said)
    assert "recall" not in starred(said)
    assert "different" not in said
    assert f"stale: {VAE} has changed since it was measured; aigc run {VAE}" in said.splitlines()
    assert PICTURE.exists()


def test_nothing_is_starred_between_different_judges(families: Project) -> None:
    measured(GAN, figures(0.6), judge="aaaabbbbcccc")
    measured(VAE, figures(2.0), judge="ddddeeeeffff")
    said = compare([GAN, VAE])
    assert starred(said) == []
    assert f"by different judges ({GAN} by aaaabbbb, {VAE} by ddddeeee): nothing compares, nothing is starred" in said


def test_nothing_is_starred_between_different_data_sets(families: Project) -> None:
    def other(params: Any) -> None:
        params["datasets"]["others"] = params["datasets"]["digits"]
        params["recipes"][VAE]["dataset"] = "others"

    families.edit(other)
    measured(GAN, figures(0.6))
    measured(VAE, figures(2.0), dataset="others")
    said = compare([GAN, VAE])
    assert starred(said) == []
    assert len([line for line in said.splitlines() if "different data sets" in line]) == 1


def test_nothing_is_starred_where_samples_or_neighbours_differ(families: Project) -> None:
    """FID falls with more samples, coverage grows with wider balls: neither makes a better model."""
    measured(GAN, figures(0.6))
    measured(VAE, figures(2.0, samples=60))
    said = compare([GAN, VAE])
    assert starred(said) == []
    assert f"not measured alike ({GAN} with 1000 samples, 5 neighbours; {VAE} with 60 samples, 5 neighbours)" in said
    measured(VAE, figures(2.0), neighbours=20)
    said = compare([GAN, VAE])
    assert starred(said) == []
    assert f"{VAE} with 1000 samples, 20 neighbours" in said
    measured(VAE, figures(2.0), neighbours=5)
    assert "fid_ratio" in starred(compare([GAN, VAE]))


def test_few_images_are_said(families: Project) -> None:
    measured(GAN, figures(0.6, test_images=20))
    measured(VAE, figures(2.0))
    said = compare([GAN, VAE])
    assert f"{GAN}: few images (20) for 64 features: FID and its ratio are not to be trusted" in said.splitlines()
    assert f"{VAE}: few" not in said


def test_figures_of_an_earlier_version_are_not_compared(families: Project) -> None:
    measured(GAN, {"fid": 1.0})
    with pytest.raises(UserError, match="measured by an earlier version; next: aigc run digits-gan"):
        compare([GAN, VAE])


def test_the_spread_of_kid_is_not_shown_as_an_interval(families: Project) -> None:
    measured(GAN, figures(0.6, kid=0.05, kid_std=0.004))
    measured(VAE, figures(2.0, kid=0.09, kid_std=0.001))
    said = compare([GAN, VAE]).splitlines()
    (row,) = [line.split() for line in said if line.startswith("kid")]
    assert row == ["kid", "0.05", "±", "0.004", "0.09", "±", "0.001"]
    assert "± standard deviation over random subsets, which is no interval" in said


@pytest.mark.parametrize("names", [[GAN], [GAN, GAN]])
def test_one_recipe_is_not_compared(families: Project, names: list[str]) -> None:
    with pytest.raises(UserError, match="takes two or more different recipes, got digits-gan alone; name another"):
        compare(names)


def test_grids_are_shown_at_one_scale_and_a_bar_of_zero_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small red grid beside one that is three times as large: a third as wide and high in the picture."""
    monkeypatch.chdir(tmp_path)
    for name, side, colour in (("small", 100, (255, 0, 0)), ("large", 300, (0, 255, 0))):
        folder = tmp_path / "reports" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (side, side), colour).save(folder / "grid.png")
    found = {"small": figures(0.6, recall=0.0, recall_low=0.0, recall_high=0.01), "large": figures(2.0)}
    draw(found)
    picture = images.imread(PICTURE)[..., :3]

    def extent(colour: tuple[int, int, int]) -> tuple[int, int]:
        rows, columns = np.nonzero((np.abs(picture - colour) < 0.02).all(2))
        return int(np.ptp(rows)), int(np.ptp(columns))

    (high, wide), (higher, wider) = extent((1, 0, 0)), extent((0, 1, 0))
    assert higher / high == pytest.approx(3, rel=0.05)
    assert wider / wide == pytest.approx(3, rel=0.05)
