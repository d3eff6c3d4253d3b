"""The three networks, in plain torch: they are built in every library's own environment.

No dropout, no batch normalisation, no shared module: an example's outputs depend on that example alone.
Attention is spelled out, since torch's fused kernels have no second derivative on a CPU.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn


def build(kind: str, config: dict[str, Any]) -> nn.Module:
    """The network of a task, freshly initialised."""
    makers = {"mlp": mlp, "resnet": ResNet, "gpt2": GPT2}
    return makers[kind](**config)


def attributed(kind: str, model: nn.Module) -> list[str]:
    """Names of the modules that every library attributes: all linear and convolutional ones; in a GPT-2 those
    of the blocks, since several libraries cannot do embeddings and a tied or huge head is usually left
    out."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and (kind != "gpt2" or name.startswith("blocks."))
    ]


def mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1])] + ([nn.ReLU()] if i < len(widths) - 2 else [])
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """`x + conv(relu(conv(relu(x))))`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class ResNet(nn.Module):
    """A stem, a residual block per width but the last, strided convolutions between, average, linear."""

    def __init__(self, channels: int, widths: list[int], classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, stride=2, padding=1)
        self.residuals = nn.ModuleList(Residual(width) for width in widths[:-1])
        self.strides = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for residual, stride in zip(self.residuals, self.strides):
            x = stride(torch.relu(residual(x)))
        return self.head(torch.relu(x).mean((2, 3)))


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (part.reshape(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(d // self.heads)
        future = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return self.projection((weights @ v).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    """GPT-2's block: normalise, attend, add; normalise, two linear layers with a GELU, add."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        hidden = nn.functional.gelu(self.up(self.norm_2(x)), approximate="tanh")
        return x + self.down(hidden)


class GPT2(nn.Module):
    """Tokens `(b, t)` to logits `(b, t, vocabulary)`."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():  # GPT-2's initialisation
            if name.endswith("weight") and "norm" not in name:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
