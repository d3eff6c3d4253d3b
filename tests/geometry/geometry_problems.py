"""Random networks and their gradients, norms and bounds by dense float64 autograd, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "softplus": nn.Softplus, "gelu": nn.GELU}


def random_mlp(
    widths: list[int], activation: str, *, seed: int, gain: float = 1.0, bias: bool = True
) -> nn.Sequential:
    """A float64 MLP of these widths with normal weights of standard deviation `gain/√fan-in`."""
    generator = torch.Generator().manual_seed(seed)
    modules: list[nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
        if number:
            modules.append(ACTIVATIONS[activation]())
        layer = nn.Linear(fan_in, fan_out, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            for value in layer.parameters():
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(gain * drawn / fan_in**0.5)
        modules.append(layer)
    return nn.Sequential(*modules)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n: int, classes: int, seed: int = 1) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """`log p_y/(1 − p_y)`."""
    p = torch.softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
    return torch.log(p) - torch.log1p(-p)


@dataclass
class DenseLayer:
    weight_norm: float
    activation_norm: float
    jacobian_norm: float
    term: float
    gradient_square: float


@dataclass
class DenseExample:
    """Both sides for one example, from explicit Jacobians and their singular values."""

    input_norm: float
    parameter_norm: float
    layers: list[DenseLayer]

    @property
    def left(self) -> float:
        return self.input_norm**2 * sum(layer.term for layer in self.layers)


def dense_sides(net: nn.Sequential, x: Tensor, y: Tensor) -> DenseExample:
    """For one input `(d,)` and its class, with the margin as `f`."""
    names = dict(net.named_parameters())

    def value(parameters: dict[str, Tensor], at: Tensor) -> Tensor:
        return margins(functional_call(net, parameters, (at[None],)), y[None])[0]

    point = x.detach().clone().requires_grad_()
    found = torch.autograd.grad(value(names, point), [point, *names.values()])
    gradients = dict(zip(names, found[1:]))
    layers = []
    for index, module in enumerate(net):
        if not isinstance(module, nn.Linear):
            continue
        before = net[:index]
        h = before(x).detach()
        jacobian = jacrev(before)(x).detach() if index else torch.eye(len(x), dtype=x.dtype)
        weight = float(torch.linalg.svdvals(module.weight.detach())[0])
        spread = float(torch.linalg.svdvals(jacobian)[0])
        one = 0.0 if module.bias is None else 1.0
        own = [g for name, g in gradients.items() if name.startswith(f"{index}.")]
        gain = (weight * spread) ** 2
        term = (one + float(h.square().sum())) / gain if gain else 0.0
        square = sum(float(g.square().sum()) for g in own)
        layers.append(DenseLayer(weight, float(h.norm()), spread, term, square))
    total = sum(float(g.square().sum()) for g in gradients.values()) ** 0.5
    return DenseExample(float(found[0].norm()), total, layers)
