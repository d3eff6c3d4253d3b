"""The head in closed form: how much faster than autograd, and how far from the whole network.

    python benchmarks/head_closed_form.py speed            # CPU seconds and agreement, on synthetic features
    python benchmarks/head_closed_form.py share            # head against network, scikit-learn's digits
    python benchmarks/head_closed_form.py share --data DIR # and MNIST, from DIR/mnist/*.gz

`speed` compares six ways to the same scores in float64: `head_scores`; autograd as `torch.func` does it
best, on the features (gradients by `vmap(grad)`, dense Hessian by `jvp` of `grad` in chunks, one solve);
plain autograd through the network (a backward pass per example, `torch.autograd.functional.hessian`);
conjugate gradients on Hessian products through the network, a query at a time; `Influence` on the head of the
network; and Wherefrom's own general path, with the detection of the head switched off. Times are CPU time of
the process, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

import wherefrom
from wherefrom.gradients import engine
from wherefrom.influence import head_scores
from wherefrom.studies.geometry import gradient_split, head_against_network

# n, q, d, c
SIZES = ((1000, 20, 32, 10), (2000, 50, 64, 10), (4000, 50, 128, 10))
DECAY, DAMPING, CHUNK = 1e-3, 1e-2, 32


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.process_time()
    return run(), time.process_time() - start


def by_autograd(
    weight: Tensor, bias: Tensor, train: tuple[Tensor, ...], queries: tuple[Tensor, ...]
) -> Tensor:
    """`∇mᵀ (H + αI + λI)⁻¹ g`, as one writes it with `torch.func`."""
    size = weight.numel()
    start = torch.cat([weight.reshape(-1), bias])

    def one(theta: Tensor, e: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(theta[:size].view_as(weight) @ e + theta[size:], y)

    def mean(theta: Tensor) -> Tensor:
        return F.cross_entropy(train[0] @ theta[:size].view_as(weight).T + theta[size:], train[1])

    gradients = [vmap(grad(one), in_dims=(None, 0, 0))(start, *data) for data in (train, queries)]
    units = torch.eye(len(start), dtype=start.dtype)
    dense = vmap(lambda unit: jvp(grad(mean), (start,), (unit,))[1], chunk_size=CHUNK)(units)
    dense = dense + (DECAY + DAMPING) * units
    return gradients[1] @ torch.linalg.solve(dense, gradients[0].T)


def by_plain_autograd(
    network: nn.Sequential, train: tuple[Tensor, ...], queries: tuple[Tensor, ...]
) -> Tensor:
    """The same without `torch.func`: the head's gradients through the network, one example after another."""
    shape, size = network[1].weight.shape, network[1].weight.numel()
    start = torch.cat([value.detach().reshape(-1) for value in network[1].parameters()])

    def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            e = network[0](x)
        return F.cross_entropy(F.linear(e, theta[:size].view(shape), theta[size:]), y)

    leaf = start.clone().requires_grad_()
    g, m = (
        torch.stack([torch.autograd.grad(loss(leaf, x[None], y[None]), leaf)[0] for x, y in zip(*data)])
        for data in (train, queries)
    )
    dense = torch.autograd.functional.hessian(lambda theta: loss(theta, *train), start)
    return m @ torch.linalg.solve(dense + (DECAY + DAMPING) * torch.eye(len(start), dtype=dense.dtype), g.T)


def by_products(network: nn.Sequential, train: tuple[Tensor, ...], queries: tuple[Tensor, ...]) -> Tensor:
    """As Koh & Liang (2017, §3) have it: conjugate gradients on Hessian products by double backward through
    the network, a query at a time, to a relative residual of 1e-8; a backward pass per training example."""
    parameters = list(network[1].parameters())

    def gradient(x: Tensor, y: Tensor, graph: bool = False) -> Tensor:
        loss = F.cross_entropy(network(x), y)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=graph)])

    def product(v: Tensor) -> Tensor:
        parts = torch.autograd.grad(gradient(*train, graph=True) @ v, parameters)
        return torch.cat([part.reshape(-1) for part in parts]) + (DECAY + DAMPING) * v

    rows = []
    for x, y in zip(*queries):
        rhs = gradient(x[None], y[None])
        solution, residual = torch.zeros_like(rhs), rhs.clone()
        direction, size = residual.clone(), residual @ residual
        while size > 1e-16 * (rhs @ rhs):
            image = product(direction)
            step = size / (direction @ image)
            solution, residual = solution + step * direction, residual - step * image
            size, before = residual @ residual, size
            direction = residual + size / before * direction
        rows.append(solution)
    g = torch.stack([gradient(x[None], y[None]) for x, y in zip(*train)])
    return torch.stack(rows) @ g.T


def speed() -> None:
    print("| n | queries | d × c | way | CPU seconds | times slower | largest relative difference |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        speed_of(*size)


def speed_of(n: int, q: int, d: int, c: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n + q, d, generator=generator, dtype=torch.float64)
    body = nn.Sequential(nn.Linear(d, d), nn.Tanh()).double()
    network = nn.Sequential(body, nn.Linear(d, c).double()).eval()
    y = torch.randint(c, (n + q,), generator=generator)
    with torch.no_grad():
        e = body(x)
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    options = {"weight_decay": DECAY, "damping": DAMPING}

    def closed() -> Tensor:
        return head_scores(e[:n], y[:n], e[n:], y[n:], weight=weight, bias=bias, **options).values

    def influence() -> Tensor:
        made = wherefrom.Influence(
            network, (x[:n], y[:n]), loss="cross_entropy", parameters="1", progress=False, **options
        )
        return made.fit().scores((x[n:], y[n:])).values

    def general() -> Tensor:
        found = engine.find_linear_head
        engine.find_linear_head = lambda objective: None
        try:
            return influence()
        finally:
            engine.find_linear_head = found

    closed()  # the first call of anything loads code
    reference, base = min((timed(closed) for _ in range(3)), key=lambda made: made[1])
    ways = {
        "Influence, parameters= the head": influence,
        "Wherefrom's general path": general,
        "autograd, through the network": lambda: by_plain_autograd(network, (x[:n], y[:n]), (x[n:], y[n:])),
        "CG on products, a query at a time": lambda: by_products(network, (x[:n], y[:n]), (x[n:], y[n:])),
        "torch.func, on the features": lambda: by_autograd(weight, bias, (e[:n], y[:n]), (e[n:], y[n:])),
    }
    for parameter in body.parameters():
        parameter.requires_grad_(False)
    print(f"| {n:,} | {q} | {d} × {c} | head_scores | {base:.3f} | 1 | |", flush=True)
    for name, run in ways.items():
        values, seconds = timed(run)
        gap = float((values - reference).abs().max() / reference.abs().max())
        print(f"| | | | {name} | {seconds:.2f} | {seconds / base:.0f} | {gap:.0e} |", flush=True)


def trained(sizes: tuple[int, ...], x: Tensor, y: Tensor, decay: float) -> nn.Sequential:
    """A tanh network at a minimum of its regularised objective, nearly: L-BFGS in float64."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for d, c in itertools.pairwise(sizes):
        layers += [nn.Linear(d, c), nn.Tanh()]
    model = nn.Sequential(*layers[:-1]).double()
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss = loss + 0.5 * decay * sum(p.square().sum() for p in model.parameters())
        loss.backward()
        return loss

    optimiser.step(step)
    return model.eval()


def mnist(folder: Path, kind: str, count: int) -> tuple[Tensor, Tensor]:
    with gzip.open(folder / "mnist" / f"{kind}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(16 + 784 * count), np.uint8)[16:].reshape(count, 784)
    with gzip.open(folder / "mnist" / f"{kind}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + count), np.uint8)[8:]
    return torch.tensor(images / 255.0), torch.tensor(labels.astype(np.int64))


def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return torch.tensor(x[order] / 16.0), torch.tensor(y[order])


def share(folder: Path | None) -> None:
    x, y = digits()
    cases = {"digits, 64-32-10": ((64, 32, 10), (x[:1200], y[:1200]), (x[1200:1300], y[1200:1300]), "exact")}
    if folder is not None:
        queries = mnist(folder, "t10k", 40)
        cases["MNIST, 784-32-10"] = ((784, 32, 10), mnist(folder, "train", 1000), queries, "cg")
    print("| network | head | damping | rank correlation | top 10 | same sign | relative size |")
    print("|---|---|---|---|---|---|---|")
    for name, (sizes, train, queries, solver) in cases.items():
        model = trained(sizes, *train, DECAY)
        right = float((model(queries[0]).argmax(1) == queries[1]).double().mean())
        for damping in (1e-3, 1e-1):
            fitted = wherefrom.Influence(
                model,
                train,
                loss="cross_entropy",
                weight_decay=DECAY,
                solver=solver,
                damping=damping,
                progress=False,
            ).fit()
            found = head_against_network(fitted, queries)
            low, rank, high = found.rank_correlation.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
            p, head = fitted.objective.p, sum(value.numel() for value in model[-1].parameters())
            overlap, signs = (100 * float(values.median()) for values in (found.overlap, found.same_sign))
            print(
                f"| {name} | {head:,} of {p:,} | {damping:g} | {rank:.2f} ({low:.2f} … {high:.2f}) | "
                f"{overlap:.0f}% | {signs:.0f}% | {float(found.relative_size.median()):.2f} |",
                flush=True,
            )
        print(f"<!-- {name}: test accuracy {right:.2f}; {gradient_split(fitted.objective)!r} -->", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "share"))
    parser.add_argument("--data", type=Path, default=os.environ.get("WHEREFROM_DATA"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    speed() if given.what == "speed" else share(given.data and Path(given.data))
