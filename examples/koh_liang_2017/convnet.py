"""A small convolutional network for 32 × 32 colour images, trained once and kept as safetensors.

Its first layer is frozen: 6 × 6 patches of the training images, one every 2 pixels, are whitened (Coates &
Ng 2012; as the first layer of a network: Page 2019), so that fine detail, which has little variance in
photographs, counts as much as the coarse. After it come 3 × 3 convolutions, each with batch normalisation
and ReLU, and a pooling after each stage.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cifar10 import Images
from experiment import say
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

PADDING = 4  # of the random crops
PATCH, STRIDE = 6, 2  # of the whitened patches
BATCH = 250  # images at a time where nothing is learnt


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is trained.

    Attributes:
        stages: (channels, convolutions) of each; every stage halves the image, the first layer did so before.
        whitening_epsilon: added to the variances of the patches, whose pixels are in [0, 1].
        epochs, batch, learning_rate, weight_decay: of stochastic gradient descent with Nesterov momentum 0.9
            and a learning rate that rises and falls once.
        seed: of initialisation, order, flips and crops.
    """

    stages: tuple[tuple[int, int], ...] = ((64, 3), (128, 3))
    whitening_epsilon: float = 1e-7
    epochs: int = 12
    batch: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, and how it was made.

    Attributes:
        network: (b, 3, h, w) pixels in [0, 1] → (b, classes); its last module is the linear head.
        seconds: of training; those of the first run, if the network was read from its file.
        from_file: whether it was.
    """

    network: nn.Sequential
    seconds: float
    from_file: bool

    @property
    def features(self) -> nn.Sequential:
        """All but the head, frozen, in float64: an optimum is no better than the rounding of its data."""
        return copy.deepcopy(self.network[:-1]).double().requires_grad_(False).eval()


def build(settings: Settings, classes: int, side: int) -> nn.Sequential:
    """The untrained network; its first layer is zero until `whiten` sets it."""
    width = 3 * PATCH**2
    first = nn.Conv2d(3, width, PATCH, stride=STRIDE, padding=(PATCH - STRIDE) // 2)
    nn.init.zeros_(first.weight)
    nn.init.zeros_(first.bias)
    first.requires_grad_(False)
    modules: list[nn.Module] = [first]
    side //= STRIDE
    for channels, convolutions in settings.stages:
        for _ in range(convolutions):
            modules += [
                nn.Conv2d(width, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            width = channels
        modules.append(nn.MaxPool2d(2))
        side //= 2
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(width * side**2, classes))


def whiten(network: nn.Sequential, x: Tensor, epsilon: float) -> None:
    """Set the first layer to the principal components of patches of images x, each of variance 1."""
    patches = functional.unfold(x, PATCH).transpose(1, 2).reshape(-1, 3 * PATCH**2).double()
    mean = patches.mean(dim=0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    rows = (vectors / (values + epsilon).sqrt()).T
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight.copy_(rows.view(-1, 3, PATCH, PATCH))
        first.bias.copy_(-(rows @ mean))


def pixels(images: Images) -> Tensor:
    """(n, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(images.pixels).float() / 255.0


def outputs(network: nn.Module, x: Tensor) -> Tensor:
    """Of images x in [0, 1], a block at a time, without gradients."""
    with torch.no_grad():
        return torch.cat([network(block) for block in x.split(BATCH)])


def trained(train: Images, settings: Settings, folder: Path) -> Trained:
    """The network trained on these images; read from `folder` if it was trained on them before.

    The name of the file holds a hash of the images, the labels and the settings: another training set or
    another setting is another file. A damaged file is an error, not trained over.

    Raises:
        ValueError: the file is not what its name says.
    """
    classes, y = np.unique(train.y, return_inverse=True)
    network = build(settings, len(classes), train.pixels.shape[-1])
    path = folder / f"convnet-{_digest(train, settings)}.safetensors"
    if path.is_file():
        seconds = _read(network, path)
        say(f"the network is read from {path.name}")
        return Trained(network.eval(), seconds, from_file=True)
    started = time.perf_counter()
    network = _train(train, torch.from_numpy(y), len(classes), settings)
    seconds = time.perf_counter() - started
    folder.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    save_file(network.state_dict(), scratch, metadata={"seconds": repr(seconds)})
    scratch.replace(path)
    return Trained(network, seconds, from_file=False)


def _read(network: nn.Sequential, path: Path) -> float:
    try:
        with safe_open(path, framework="pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            return float((file.metadata() or {})["seconds"])
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it, and it is trained again") from error


def _digest(train: Images, settings: Settings) -> str:
    content = hashlib.sha256(json.dumps(dataclasses.asdict(settings), sort_keys=True).encode())
    content.update(repr(train.pixels.shape).encode())
    content.update(np.ascontiguousarray(train.pixels).tobytes())
    content.update(np.ascontiguousarray(train.y).tobytes())
    return content.hexdigest()[:16]


def _train(train: Images, y: Tensor, classes: int, settings: Settings) -> nn.Sequential:
    random = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = build(settings, classes, train.pixels.shape[-1])
    x = pixels(train)
    whiten(network, x[:1000], settings.whitening_epsilon)
    network = network.to(memory_format=torch.channels_last)
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(
        learnt,
        lr=settings.learning_rate,
        momentum=0.9,
        weight_decay=settings.weight_decay,
        nesterov=True,
    )
    batches = max(1, len(x) // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * batches, pct_start=0.2
    )
    network.train()
    for epoch in range(settings.epochs):
        order, total = torch.randperm(len(x), generator=random), 0.0
        for rows in order[: batches * settings.batch].split(settings.batch):
            with torch.autocast("cpu", torch.bfloat16):
                made = network(_augmented(x[rows], random))
            loss = functional.cross_entropy(made.float(), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        say(f"epoch {epoch + 1} of {settings.epochs}: loss {total / batches:.3f}")
    return network.eval().to(memory_format=torch.contiguous_format)


def _augmented(x: Tensor, random: torch.Generator) -> Tensor:
    """Each image mirrored or not, the batch shifted by up to `PADDING` pixels."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=random) < 0.5
    x = functional.pad(torch.where(mirrored, x.flip(3), x), (PADDING,) * 4)
    down, right = torch.randint(0, 2 * PADDING + 1, (2,), generator=random).tolist()
    side = x.shape[-1] - 2 * PADDING
    return x[:, :, down : down + side, right : right + side].contiguous(memory_format=torch.channels_last)
