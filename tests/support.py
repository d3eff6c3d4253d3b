"""Oracles in plain float64 torch, sharing no code with Wherefrom: dense curvature, gradients, training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import config
from scipy import optimize
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

PlainLoss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> (b,)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets.reshape(outputs.shape)).square().flatten(1).sum(1)


def logistic(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-outputs.reshape(-1) * targets))


def class_margin(outputs: Tensor, targets: Tensor) -> Tensor:
    p = torch.softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
    return torch.log(p / (1 - p))


def digits(
    n: int, *, start: int = 0, classes: int = 10, pool: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """`n` of scikit-learn's digits in a fixed order, in [0, 1]; `pool=2` averages 2 × 2 pixels."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[labels < classes], labels[labels < classes]
    order = np.random.default_rng(seed).permutation(len(labels))[start : start + n]
    x = torch.tensor(images[order] / 16.0).view(-1, 1, 8, 8)
    x = nn.functional.avg_pool2d(x, pool).flatten(1)
    return x, torch.tensor(labels[order])


class Plain:
    """`J(θ) = (1/n) Σ ℓ_i(θ) + ½ Σ_j α_j θ_j²` in float64, as functions of the flat parameter vector."""

    def __init__(
        self, model: nn.Module, loss: PlainLoss, data: tuple[Tensor, Tensor], decay: float | Tensor = 0.0
    ):
        self.model = copy.deepcopy(model).double()
        self.loss = loss
        self.x, self.y = data[0].double(), data[1]
        self.names = [name for name, _ in self.model.named_parameters()]
        self.shapes = [value.shape for _, value in self.model.named_parameters()]
        self.theta = torch.cat([value.detach().reshape(-1) for value in self.model.parameters()])
        self.p, self.n = self.theta.numel(), len(self.x)
        self.decay = torch.full_like(self.theta, decay) if isinstance(decay, float) else decay.double()

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        parts = theta.split([shape.numel() for shape in self.shapes])
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes)}

    def outputs(self, theta: Tensor, x: Tensor | None = None) -> Tensor:
        return functional_call(self.model, self.unflatten(theta), (self.x if x is None else x.double(),))

    def losses(self, theta: Tensor, data: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x, y = (self.x, self.y) if data is None else data
        return self.loss(self.outputs(theta, x), y)

    def objective(self, theta: Tensor, weights: Tensor | None = None) -> Tensor:
        """`Σ_i w_i ℓ_i + R`; weights `1/n` by default."""
        losses = self.losses(theta)
        total = losses.mean() if weights is None else (weights * losses).sum()
        return total + 0.5 * (self.decay * theta.square()).sum()

    def gradients(
        self,
        data: tuple[Tensor, Tensor] | None = None,
        measure: PlainLoss | None = None,
        theta: Tensor | None = None,
    ) -> Tensor:
        """Per-example gradients `(b, p)` by one backward pass for each example alone."""
        x, y = (self.x, self.y) if data is None else data
        rows = []
        for i in range(len(x)):
            leaf = (self.theta if theta is None else theta).clone().requires_grad_()
            value = (measure or self.loss)(self.outputs(leaf, x[i : i + 1]), y[i : i + 1]).sum()
            rows.append(torch.autograd.grad(value, leaf)[0])
        return torch.stack(rows)

    def hessian(self, theta: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        return hessian(lambda t: self.objective(t, weights))(self.theta if theta is None else theta)

    def ggn(self) -> Tensor:
        """`(1/n) Σ J_iᵀ (∇²_f ℓ_i) J_i + diag(α)` with explicit Jacobians."""
        jacobian = jacrev(lambda t: self.outputs(t).flatten(1))(self.theta)
        outputs = self.outputs(self.theta)
        total = torch.diag(self.decay)
        for i in range(self.n):
            inner = hessian(lambda f, i=i: self.loss(f.view(1, *outputs.shape[1:]), self.y[i : i + 1]).sum())
            total = total + jacobian[i].T @ inner(outputs[i].flatten().detach()) @ jacobian[i] / self.n
        return total

    def empirical_fisher(self) -> Tensor:
        rows = self.gradients()
        return rows.T @ rows / self.n + torch.diag(self.decay)

    def curvature(self, name: str) -> Tensor:
        """Dense matrix of a curvature by its name (`"fisher"` equals the GGN for these losses)."""
        if name == "hessian":
            return self.hessian()
        return self.empirical_fisher() if name == "empirical_fisher" else self.ggn()

    def minimise(
        self, weights: Tensor | None = None, start: Tensor | None = None, *, newton: int = 8
    ) -> Tensor:
        """A minimiser by L-BFGS and then Newton steps on the dense Hessian, to rounding."""

        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            leaf = torch.from_numpy(flat).requires_grad_()
            value = self.objective(leaf, weights)
            return float(value.detach()), torch.autograd.grad(value, leaf)[0].numpy()

        begin = (self.theta if start is None else start).numpy()
        options = {"maxiter": 3000, "maxfun": 6000, "gtol": 1e-9, "ftol": 0.0, "maxcor": 30}
        found = optimize.minimize(value_and_gradient, begin, jac=True, method="L-BFGS-B", options=options)
        theta = torch.from_numpy(found.x.copy())
        for _ in range(newton):
            gradient = torch.from_numpy(value_and_gradient(theta.numpy())[1])
            if float(gradient.abs().max()) < 1e-13:
                break
            theta = theta - torch.linalg.solve(self.hessian(theta, weights), gradient)
        return theta

    def trained(self, **options: object) -> Plain:
        """The same objective at its minimiser, with the model's parameters set to it."""
        theta = self.minimise(**options)  # type: ignore[arg-type]
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, value in self.unflatten(theta).items():
                model.get_parameter(name).copy_(value)
        return Plain(model, self.loss, (self.x, self.y), self.decay)

    def scores(
        self,
        queries: tuple[Tensor, Tensor],
        matrix: Tensor,
        damping: float = 0.0,
        measure: PlainLoss | None = None,
    ) -> Tensor:
        """`∇mᵀ (C + λI)⁻¹ g`, queries × train."""
        damped = matrix + damping * torch.eye(self.p, dtype=torch.float64)
        return self.gradients(queries, measure) @ torch.linalg.solve(damped, self.gradients().T)

    def without(self, removed: int) -> Tensor:
        """Weights of the objective that keeps `1/n` for the others."""
        weights = torch.full((self.n,), 1 / self.n, dtype=torch.float64)
        weights[removed] = 0
        return weights


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model built under a seed that does not disturb the global one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double().eval()


class SmallConv(nn.Module):
    """A small convolutional network on 8 × 8 digits."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2)
        self.head = nn.Linear(27, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x.view(-1, 1, 8, 8))).flatten(1))


def softmax_regression(n: int = 120, *, classes: int = 4, pool: int = 2, decay: float = 0.01) -> Plain:
    """Softmax regression on pooled digits at its optimum."""
    data = digits(n, classes=classes, pool=pool)
    model = seeded(lambda: nn.Linear(data[0].shape[1], classes))
    return Plain(model, cross_entropy, data, decay).trained()


def small_mlp(n: int = 60, *, decay: float = 0.01, hidden: int = 5) -> Plain:
    """A two-layer tanh network on pooled digits near a minimum: by L-BFGS only, as it is not convex."""
    data = digits(n, classes=3, pool=2)
    model = seeded(lambda: nn.Sequential(nn.Linear(16, hidden), nn.Tanh(), nn.Linear(hidden, 3)))
    return Plain(model, cross_entropy, data, decay).trained(newton=0)


def small_conv(n: int = 40, *, decay: float = 0.02) -> Plain:
    """A small convolutional network near a minimum."""
    return Plain(seeded(SmallConv), cross_entropy, digits(n, classes=3), decay).trained(newton=0)


@contextmanager
def as_a_user() -> Iterator[None]:
    """Without the tests' own run-time type checks: bad arguments must be met by Wherefrom's own errors."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
