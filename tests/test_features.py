"""What a judge sees with: learned without labels, the pixels themselves, or weights of the user's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Project
from safetensors.torch import save_file

from aigc_tasks.acquire.__main__ import acquire
from aigc_tasks.clean.arrays import Split
from aigc_tasks.clean.cleaning import clean
from aigc_tasks.errors import UserError
from aigc_tasks.features import Knobs, trunks
from aigc_tasks.features.judge import Judge, features, learn, look, trunk


def textures(count: int, seed: int) -> Split:
    """Lying and standing stripes in every phase, in noise: 1×8×8."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    wave = 60 * np.sin(np.arange(8) * np.pi / 2 + generator.uniform(0, 2 * np.pi, (count, 1)))
    stripes = np.where(labels[:, None, None] == 1, wave[:, :, None], wave[:, None, :])
    images = 128 + stripes + generator.normal(0, 15, (count, 8, 8))
    return Split(np.clip(images, 0, 255).astype(np.uint8)[:, None], labels)


def learned(kind: str, classes: int, data: Split, knobs: Knobs) -> Judge:
    torch.manual_seed(0)
    judge = Judge(trunk(kind, knobs, data.images.shape[1:]), classes)  # type: ignore[arg-type]
    learn(judge, kind, data, knobs, "test")
    return judge


@pytest.mark.slow
def test_a_judge_without_labels_tells_textures_apart() -> None:
    """By the label of the nearest training image in its features; by chance it would be half of them."""
    data, unseen = textures(200, 0), textures(100, 1)
    silent = Split(data.images, np.zeros(200, np.int64))
    judge = learned("selfsupervised", 0, silent, Knobs(steps=80, width=8))
    (known, nobody), (new, _) = look(judge, data.images), look(judge, unseen.images)
    assert not nobody.any()
    assert float(known.square().mean()) == pytest.approx(1, rel=1e-4)
    nearest = torch.cdist(new, known).argmin(1).numpy()
    assert (data.labels[nearest] == unseen.labels).mean() > 0.8


@pytest.mark.slow
def test_a_classifier_can_stand_on_what_was_learned_without_labels() -> None:
    data, unseen = textures(200, 0), textures(100, 1)
    judge = learned("selfsupervised", 2, data, Knobs(steps=80, width=8, learning_rate=3e-3))
    assert (look(judge, unseen.images)[1] == unseen.labels).mean() > 0.7


@pytest.mark.parametrize("shape", [(4, 4), (7, 7), (8, 16), (5, 20), (3, 2)])
def test_a_gpu_pools_in_the_same_windows(shape: tuple[int, int]) -> None:
    """There two matrix products do it, whose gradient is the same twice: of torch's own pooling it is not."""
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(trunks.pooled(x, trunks.POOLED), trunks.Pool(trunks.POOLED)(x), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 5, 20)])
def test_pixels_are_the_means_of_their_places(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    judge = learned("pixels", 0, Split(images, np.zeros(6, np.int64)), Knobs(kind="pixels", steps=1))
    features, _ = look(judge, images)
    assert features.shape == (6, shape[0] * min(8, shape[1]) * min(8, shape[2]))
    assert float(features.square().mean()) == pytest.approx(1, rel=1e-4)
    seen = trunks.Pixels(shape)(torch.from_numpy(images)).unflatten(1, (shape[0], -1)).mean(2)
    if shape != (3, 5, 20):  # there the places overlap
        expected = torch.from_numpy(images.mean((2, 3)) / 127.5 - 1).float()
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    from torchvision import models

    torch.manual_seed(0)
    return models.resnet18(weights=None).state_dict()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_the_users_are_what_it_sees_with(
    suffix: str, resnet: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"weights.{suffix}"
    torch.save(resnet, path) if suffix == "pth" else save_file(resnet, path)
    knobs = Knobs(kind="pretrained", pretrained="resnet18", weights=str(path))
    data = textures(6, 0)
    judge = learned("pretrained", 0, Split(data.images, np.zeros(6, np.int64)), knobs)
    features, classes = look(judge, data.images)
    assert features.shape == (6, 512)
    assert float(features.square().mean()) == pytest.approx(1, rel=1e-4)
    assert not classes.any()
    torch.testing.assert_close(judge.trunk.network.conv1.weight, resnet["conv1.weight"])  # type: ignore[union-attr]
    assert not any(weights.requires_grad for weights in judge.trunk.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "googlenet", "resnet18"])
def test_what_is_seen_is_what_torchvision_sees(name: str) -> None:
    """As torchvision builds the network for its weights, fed by the preset that belongs to them."""
    from torchvision import models

    torch.manual_seed(0)
    trunk = trunks.Pretrained(name)
    weights = models.get_model_weights(name).DEFAULT
    own = {"init_weights": False} if name != "resnet18" else {}
    needed = {"transform_input": True} if name != "resnet18" else {}  # as builders set it where weights are given
    network = models.get_model(name, weights=None, **own, **needed)
    network.load_state_dict(trunk.network.state_dict())
    network.fc = torch.nn.Identity()
    trunk.behead()
    preset = weights.transforms(resize_size=trunk.size, crop_size=trunk.size)
    images = torch.randint(0, 256, (2, 3, trunk.size, trunk.size), dtype=torch.uint8)
    with torch.no_grad():
        expected, seen = network.eval()(preset(images)), trunk.eval()(images)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [8, 16, 28, 31, 32, 33, 64, 100, 256])
def test_a_large_image_costs_a_judge_that_learns_no_more_than_a_small_one(side: int) -> None:
    trunk = trunks.Convolutional((3, side, side), 4)
    first = trunk.convolutions[0]
    assert isinstance(first, torch.nn.Conv2d)
    assert first(torch.zeros(1, 3, side, side)).shape[2] <= max(16, side if side < 32 else 0)
    assert first.kernel_size[0] >= first.stride[0], "a pixel is stepped over"
    assert trunk(torch.zeros(2, 3, side, side, dtype=torch.uint8)).shape == (2, 64)


def test_the_judge_of_small_images_is_the_one_it_was() -> None:
    for side, stride in ((8, 1), (28, 2)):
        layers = [layer for layer in trunks.Convolutional((1, side, side), 4).convolutions if hasattr(layer, "stride")]
        assert [(layer.kernel_size, layer.stride[0]) for layer in layers] == [((3, 3), s) for s in (1, 2, stride)]


def test_a_judge_that_sees_nothing_is_one_line() -> None:
    grey = Split(np.full((6, 1, 8, 8), 128, np.uint8), np.zeros(6, np.int64))
    judge = Judge(trunk("pixels", Knobs(kind="pixels"), (1, 8, 8)), 0)
    with torch.no_grad():
        judge.scale.zero_()
    with pytest.raises(UserError, match="the judge sees nothing") as error:
        judge.rescale(grey.images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"width": 10**13}, "features: learning does not fit into memory; set a smaller `width` or `batch`"),
        ({"learning_rate": 1e30, "steps": 5}, "features: the judge sees nothing in the training images, or"),
        ({"kind": "pretrained", "weights": "missing.pth"}, "features.weights: "),
        ({"kind": "pretrained", "pretrained": "resnet19", "weights": "x"}, "features.pretrained: torchvision has no"),
    ],
)
def test_a_judge_that_cannot_be_is_one_line_with_the_data_set(
    section: dict[str, Any], said: str, here: Project
) -> None:
    here.edit(lambda p: p["datasets"]["digits"].update(features=section))
    acquire("digits")
    clean("digits")
    with pytest.raises(UserError) as error:
        features("digits")
    assert str(error.value).startswith(f"params.yaml: datasets.digits.{said}")
    assert "\n" not in str(error.value)


def test_a_wrong_file_of_weights_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(b"hello" * 10)
    (tmp_path / "noise.pth").write_bytes(b"hello" * 10)
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    for name in ("noise.safetensors", "noise.pth", "other.pth", "missing.pth"):
        with pytest.raises(UserError) as error:
            trunks.pretrained("resnet18", str(tmp_path / name))
        assert str(error.value).startswith(f"features.weights: {tmp_path / name}: ")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="torchvision has no 'resnet19'"):
        trunks.pretrained("resnet19", None)
    with pytest.raises(ValueError, match="weights: missing; name the file"):
        Knobs(kind="pretrained")


class Touches:
    """A pickle of this makes a file when it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("by", ["torch", "pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_of_weights_is_refused_and_not_run(by: str, tmp_path: Path) -> None:
    path, touched = tmp_path / "evil.pth", tmp_path / "touched"
    torch.save({"a": Touches(touched)}, path) if by == "torch" else path.write_bytes(pickle.dumps(Touches(touched)))
    with pytest.raises(
        UserError, match=r"features.weights: .*evil\.pth: these are not the weights of resnet18"
    ) as error:
        trunks.pretrained("resnet18", str(path))
    assert "\n" not in str(error.value)
    assert not touched.exists()
    torch.load(path, weights_only=False) if by == "torch" else pickle.loads(path.read_bytes())
    assert touched.exists()  # it would have run
