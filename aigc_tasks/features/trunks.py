"""What a judge sees with: modules from uint8 images N×C×H×W to features N×F, ``width`` of them."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_tasks import layout
from aigc_tasks.errors import UserError
from aigc_tasks.modalities import image

FEATURES = 64
STEM = 16  # pixels a side at most that the trained network's second convolution sees of an image twice as large or more
POOLED = 4  # places a side that the trained network still tells apart
SIDE = 8  # pixels a side that are left for comparing pixels
HEADS = ("fc", "classifier", "heads", "head")  # names of the last part of torchvision's classifiers
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect


class Convolutional(nn.Module):
    """A small network, for the classifier and the self-supervised judge to train."""

    width = FEATURES

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, side = shape[0], min(shape[1:])
        stride = 1 if side < 2 * STEM else -(-side // STEM)  # most of the work is what the second one has to do
        reach = (stride + 1) // 2  # so that no pixel is stepped over
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 2 * reach + 1, padding=reach, stride=stride),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, stride=1 if side < 16 else 2),
            nn.ReLU(),
            Pool(POOLED),
            nn.Flatten(),
        )
        self.features = nn.Linear(2 * width * POOLED**2, FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.convolutions(image.encode(images.float()))
        return F.relu(self.features(F.dropout(x, 0.3, self.training)))


class Pool(nn.Module):
    """Feature maps B×C×H×W averaged to B×C×``side``×``side``, in windows that overlap where they must.

    The gradient of torch's own is not the same twice on a GPU: there it is two matrix products.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.side) if x.device.type == "cpu" else pooled(x, self.side)


def pooled(x: Tensor, side: int) -> Tensor:
    """``F.adaptive_avg_pool2d`` as matrix products."""
    rows, columns = (windows(length, side, x.device) for length in x.shape[2:])
    return rows @ x @ columns.T


def windows(length: int, count: int, device: torch.device) -> Tensor:
    """A row for each of ``count`` windows over ``length`` places, with the weight of each place in its mean."""
    number, places = torch.arange(count, device=device)[:, None], torch.arange(length, device=device)
    inside = (places >= number * length // count) & (places < -(-(number + 1) * length // count))
    return inside / inside.sum(1, keepdim=True)


class Pixels(nn.Module):
    """The pixels themselves, averaged down to at most 8×8: blind to detail, but nobody's opinion."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = min(SIDE, shape[1]), min(SIDE, shape[2])
        self.width = shape[0] * self.size[0] * self.size[1]

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(image.encode(images.float()), self.size).flatten(1)


class Pretrained(nn.Module):
    """A classifier of torchvision's without its last part, in its own input size."""

    mean: Tensor
    spread: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision import models

        if name not in models.list_models(models):
            raise UserError(f"features.pretrained: torchvision has no {name!r}; for example inception_v3 or resnet50")
        # As torchvision builds them for their weights, which were trained on otherwise normalised images.
        options = {"init_weights": False, "transform_input": True} if name in ("inception_v3", "googlenet") else {}
        self.network = models.get_model(name, weights=None, **options)
        self.size = 299 if name == "inception_v3" else 224
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None], persistent=False)

    def behead(self) -> None:
        """Take the last part away, after the weights are in."""
        head = next((name for name in HEADS if hasattr(self.network, name)), None)
        if head is None:
            raise UserError("features.pretrained: this network has no classifier to take away; use another one")
        setattr(self.network, head, nn.Identity())
        with torch.no_grad():
            self.width = self.eval()(torch.zeros(1, 3, 8, 8)).shape[1]

    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 255
        x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.spread  # grey is grey in all three
        return self.network(x).flatten(1)


def pretrained(name: str, weights: str | None) -> Pretrained:
    """The network with weights from a file of the user's; nothing in it is executed. Raises ``UserError``."""
    trunk = Pretrained(name)
    if weights is not None:
        path = layout.outside(weights)
        try:
            found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            trunk.network.load_state_dict(found)
        except FileNotFoundError:
            raise UserError(f"features.weights: {path}: no such file; name the file that holds the weights") from None
        except Exception:  # whatever torch's reader or the keys may say: some of its advice is dangerous
            raise UserError(f"features.weights: {path}: these are not the weights of {name}; name its file") from None
    trunk.behead()
    return trunk
