"""Small models that use their layers in every way, for the tests of factored gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.problems import N, Problem, classification, labels, normal, seeded


class TokenModel(nn.Module):
    """A small transformer with positions, causal attention and a padding mask, fed by a dict."""

    def __init__(self, *, tied: bool = False, norm: type[nn.Module] = nn.LayerNorm, vocabulary: int = 6):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, 4, padding_idx=0)
        self.places = nn.Embedding(5, 4)
        self.body = nn.ModuleDict(
            {
                "attention": nn.MultiheadAttention(4, 2, batch_first=True),
                "norms": nn.ModuleList([norm(4), norm(4)]),
                "dense": nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)),
            }
        )
        self.head = nn.Linear(4, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        y = self.body["norms"][0](x)
        # A position that sees nothing but padding sees itself.
        hidden = (mask == 0)[:, None] & ~torch.eye(tokens.shape[1], dtype=torch.bool)
        hidden = hidden.repeat_interleave(2, 0)
        x = x + self.body["attention"](y, y, y, attn_mask=hidden, need_weights=False)[0]
        x = x + self.body["dense"](self.body["norms"][1](x))
        return self.head(x.masked_fill(mask[:, :, None] == 0, 0).sum(1))


def token_model(**options: object) -> Problem:
    tokens = labels(N, 5, classes=5, seed=2) + 1
    tokens[::2, 3:] = 0
    mask = (tokens != 0).long()
    y = labels(N, classes=6)
    return Problem(
        seeded(lambda: TokenModel(**options)),  # type: ignore[arg-type]
        {"tokens": tokens, "mask": mask, "labels": y},
        "cross_entropy",
        lambda m: m(tokens, mask),
        lambda f: F.cross_entropy(f, y, reduction="none"),
    )


class SequenceFirst(nn.Module):
    """`(b, t, d)` in, `(t, b, d)` inside, torch's default for recurrent and attention layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, dropout=0.0, activation="gelu")
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x.transpose(0, 1))).mean(0))


def batch_first_encoder() -> nn.Module:
    """On torch's fused inference path, were it not switched off."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x)[:, 0])

    return Encoder()


class Residual(nn.Module):
    """Convolutions, norms in eval mode, and in-place activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False)
        self.batch = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding="same", groups=2, padding_mode="reflect")
        self.group = nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu_(self.batch(self.stem(x)))
        x = x + F.silu(self.group(self.inner(x)), inplace=True)
        return self.head(self.instance(x).square().mean((2, 3)))


def residual() -> nn.Module:
    model = Residual()
    model.batch.running_mean.copy_(torch.linspace(-1, 1, 4))
    model.batch.running_var.copy_(torch.linspace(0.5, 2, 4))
    return model


class Custom(nn.Module):
    """RMS norm as in Llama, a class of its own."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Body(nn.Module):
    """A model of two dense layers whose `forward` is given."""

    def __init__(self, body, **modules: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        for name, module in modules.items():
            self.add_module(name, module)
        self._body = body

    def forward(self, x: Tensor) -> Tensor:
        return self._body(self, x)


def plain(body, shape: tuple[int, ...] = (4,), **modules: nn.Module) -> Problem:
    return classification(seeded(lambda: Body(body, **modules)), normal(N, *shape), labels(N))


def shared_whole(m: nn.Module, x: Tensor) -> Tensor:
    """Through a module `other` between the two."""
    return m.last(torch.tanh(m.other(torch.tanh(m.first(x)))))
