"""The two networks, in plain torch: they are built in every library's own environment."""

from __future__ import annotations

from torch import nn

SIDE = 28
# Multiplications a forward pass needs for one example, layer by layer, the first layer first.
MULTIPLICATIONS = {
    "mlp": (784 * 256, 256 * 128, 128 * 10),
    "convnet": (14 * 14 * 16 * 9, 7 * 7 * 32 * 16 * 9, 32 * 7 * 7 * 10),
}
KINDS = tuple(MULTIPLICATIONS)


def build(kind: str, width: int = 256) -> nn.Sequential:
    """Freshly initialised. `width` makes a smaller perceptron of the same depth for warming up."""
    if kind == "mlp":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, width),
            nn.ReLU(),
            nn.Linear(width, width // 2),
            nn.ReLU(),
            nn.Linear(width // 2, 10),
        )
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def product_flops(kind: str, n: int) -> float:
    """FLOPs of one Hessian product that the linear layers cannot do without, primal passes kept (see
    `benchmarks/floors.py`): `4 m₁ + 12 Σ_{l>1} m_l` per example."""
    first, *deeper = MULTIPLICATIONS[kind]
    return n * (4.0 * first + 12.0 * sum(deeper))
