"""Every network in every role, for images of any size, with labels and without."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from aigc_tasks import networks
from aigc_tasks.errors import UserError
from aigc_tasks.networks import layers, mlp, resnet, unet

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 12, 20), (3, 5, 7)]
OFFERED = [(name, role) for name in networks.names() for role in sorted(networks.offered(name))]


def stirred(network: nn.Module) -> nn.Module:
    """The network with random numbers where it starts with zeros."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize(("name", "role"), OFFERED)
def test_a_network_takes_any_shape(name: str, role: str, classes: int, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    kind = getattr(networks.load(name), role)
    labels = torch.arange(2) % max(classes, 1)
    images, z = torch.randn(2, *shape), torch.randn(2, 6)
    if role in {"Generator", "Decoder"}:
        found, expected = kind(shape, classes, 6, 4)(z, labels), (2, *shape)
    elif role == "Discriminator":
        found, expected = kind(shape, classes, 4)(images, labels), (2,)
    elif role == "Encoder":
        found, expected = kind(shape, classes, 5, 4)(images, labels), (2, 5)
    else:
        found, expected = kind(shape, classes, 4)(images, torch.tensor([0.0, 1.0]), labels), (2, *shape)
    assert tuple(found.shape) == expected
    assert found.isfinite().all()
    if role == "Generator":
        assert found.abs().max() <= 1


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_in_bfloat16_a_generator_that_strayed_is_still_pulled_back(name: str) -> None:
    """tanh of a bfloat16 has no gradient from 3.5 on."""
    generator = networks.load(name).Generator((1, 8, 8), 0, 6, 4)
    last = generator.layers[-1] if name == "mlp" else generator.end
    nn.init.constant_(last.bias, 6.0)
    with torch.autocast("cpu", torch.bfloat16):
        images = generator(torch.randn(2, 6), torch.zeros(2, dtype=torch.int64))
        logits = networks.load(name).Discriminator((1, 8, 8), 0, 4)(images.detach(), torch.zeros(2, dtype=torch.int64))
    images.sum().backward()
    assert images.dtype == logits.dtype == torch.float32
    assert last.bias.grad.all()


@pytest.mark.parametrize("name", ["mlp", "resnet"])
@pytest.mark.parametrize("role", ["Encoder", "Decoder"])
def test_labels_are_told_to_encoders_and_decoders(name: str, role: str) -> None:
    network = stirred(getattr(networks.load(name), role)((1, 8, 8), 10, 6, 4))
    given = (torch.randn(1, 1, 8, 8) if role == "Encoder" else torch.randn(1, 6)).repeat_interleave(2, 0)
    found = network(given, torch.tensor([3, 4]))
    assert not torch.equal(found[0], found[1])


def test_files_are_found_by_what_they_offer() -> None:
    assert networks.names() == ["mlp", "resnet", "unet"]
    assert networks.names(("Generator", "Discriminator")) == ["mlp", "resnet"]
    assert networks.names(("Encoder", "Decoder")) == ["mlp", "resnet"]
    assert networks.names(("Denoiser",)) == ["unet"]
    assert networks.names(("Denoiser", "Encoder")) == []


def test_recipes_are_checked_without_torch() -> None:
    code = (
        "import sys, aigc_tasks.recipe\n"
        "from aigc_tasks import families, networks\n"
        "print([networks.names(families.load(name).roles) for name in families.FAMILIES])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "unet" in done.stdout


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_a_denoiser_starts_by_predicting_nothing(patch: int) -> None:
    network = unet.Denoiser((3, 16, 16), 10, 8, patch)
    assert not network(torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.9]), torch.tensor([0, 10])).any()


def test_a_denoiser_is_told_the_level_and_the_label() -> None:
    torch.manual_seed(0)
    network = stirred(unet.Denoiser((1, 8, 8), 10, 4))
    images = torch.randn(1, 1, 8, 8).repeat(3, 1, 1, 1)
    found = network(images, torch.tensor([0.1, 0.2, 0.1]), torch.tensor([3, 3, network.unknown]))
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


@pytest.mark.parametrize(("shape", "patch"), [((3, 5, 7), 2), ((1, 28, 28), 3), ((3, 12, 20), 8)])
def test_a_patch_that_does_not_divide_the_image_is_refused(shape: tuple[int, int, int], patch: int) -> None:
    with pytest.raises(UserError, match=rf"^model\.patch: {patch} does not divide .*; set it to 1"):
        unet.Denoiser(shape, 0, 4, patch)


@pytest.mark.parametrize("role", ["Generator", "Discriminator"])
def test_attention_starts_as_nothing_and_then_matters(role: str) -> None:
    sizes = ((3, 32, 32), 0, 6, 8) if role == "Generator" else ((3, 32, 32), 0, 8)
    given = torch.randn(2, 6) if role == "Generator" else torch.randn(2, 3, 32, 32)
    labels = torch.zeros(2, dtype=torch.int64)
    without = getattr(resnet, role)(*sizes, False)
    network = getattr(resnet, role)(*sizes, True)
    attending = [part for part in network.modules() if isinstance(part, layers.Attention)]
    assert attending
    assert not any(isinstance(part, layers.Attention) for part in without.modules())
    before = network(given, labels)
    for part in attending:
        nn.init.zeros_(part.inputs.weight)
    torch.testing.assert_close(network(given, labels), before)  # whatever it looks at, it says nothing yet
    for part in attending:
        nn.init.normal_(part.inputs.weight)
        nn.init.normal_(part.output.weight)
    assert not torch.allclose(network(given, labels), before)


@pytest.mark.parametrize(("width", "normal"), [(4, True), (48, False), (64, True), (96, False)])
def test_attention_is_that_of_a_second_implementation(width: int, normal: bool) -> None:
    torch.manual_seed(0)
    part = layers.Attention(width, normal)
    nn.init.normal_(part.output.weight, std=0.1)
    x = torch.randn(2, width, 3, 5)
    twin = nn.MultiheadAttention(width, part.heads, batch_first=True)
    with torch.no_grad():
        twin.in_proj_weight.copy_(part.inputs.weight[:, :, 0, 0])
        twin.in_proj_bias.copy_(part.inputs.bias)  # type: ignore[arg-type]
        twin.out_proj.weight.copy_(part.output.weight[:, :, 0, 0])
        twin.out_proj.bias.zero_()
    pixels = part.normal(x).flatten(2).mT
    expected = x + twin(pixels, pixels, pixels, need_weights=False)[0].mT.unflatten(2, (3, 5))
    torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-5)


def test_a_network_without_maps_refuses_attention() -> None:
    for build in (lambda: mlp.Generator((1, 8, 8), 0, 4, 4, True), lambda: mlp.Discriminator((1, 8, 8), 0, 4, True)):
        with pytest.raises(UserError, match=r"^model\.attention: .* set `network: resnet`"):
            build()


@pytest.mark.parametrize("width", [1, 3, 4, 6, 12, 32, 100, 160, 256])
def test_normalisation_divides_its_channels(width: int) -> None:
    found = layers.normalisation(width)
    assert width % found.num_groups == 0
    assert found.num_groups <= 32
    assert found.num_groups == 1 or width // found.num_groups >= 4


def test_maps_are_halved_while_whole_and_at_least_four() -> None:
    assert layers.resolutions((1, 28, 28)) == [(28, 28), (14, 14), (7, 7)]
    assert layers.resolutions((3, 12, 20)) == [(12, 20), (6, 10)]
    assert layers.resolutions((3, 5, 7)) == [(5, 7)]
