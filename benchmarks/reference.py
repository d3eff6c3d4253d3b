"""Float64 reference scores, in plain torch, independent of wherefrom and of every peer.

    score(q, i) = ∇ℓ_qᵀ (C + λI)⁻¹ ∇ℓ_i,   C = Hessian or GGN of  mean loss + (α/2)‖θ‖²

``digits``: dense Hessian by double backward, Cholesky. ``mlp``: conjugate gradients to 1e-10 on the
recomputed residual, with autograd products. Both also count the CG iterations that relative residuals of 1e-4
need, which ``floors.py`` uses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tasks import sequential
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

RTOL = 1e-10
FLOOR_RTOL = 1e-4
CURVATURES = {"digits": ("hessian",), "mlp": ("hessian", "ggn")}


def build(task: Path, path: Path, curvature: str, tell: Callable[[str], None]) -> None:
    """Writes ``scores`` (queries × train), ``iterations_1e4`` (per query), ``residual`` to ``path``."""
    problem = _Problem(task)
    if curvature == "hessian" and problem.size <= 2000:
        solution, iterations = problem.dense()
    else:
        solution, iterations = problem.cg(problem.ggnvp() if curvature == "ggn" else problem.hvp(), tell)
    scores = torch.cat([solution.T @ g.T for g in problem.train_gradients()], dim=1)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, scores=scores.numpy(), iterations_1e4=iterations.numpy())
    os.replace(partial, path)


class _Problem:
    """A task file as float64 functions of one flat parameter vector."""

    def __init__(self, task: Path) -> None:
        z = np.load(task)
        depth = sum(name.startswith("bias_") for name in z.files)
        widths = (z["weight_0"].shape[1], *(z[f"weight_{i}"].shape[0] for i in range(depth)))
        self.model = sequential(widths).double()
        for i, layer in enumerate(m for m in self.model if isinstance(m, nn.Linear)):
            layer.weight.data = torch.tensor(z[f"weight_{i}"], dtype=torch.float64)
            layer.bias.data = torch.tensor(z[f"bias_{i}"], dtype=torch.float64)
        self.params = dict(self.model.named_parameters())
        self.size = sum(p.numel() for p in self.params.values())
        self.X, self.y = torch.tensor(z["X"]).double(), torch.tensor(z["y"])
        self.Xq, self.yq = torch.tensor(z["Xq"]).double(), torch.tensor(z["yq"])
        self.ridge = float(z["weight_decay"]) + float(z["damping"])

    def _gradients(self, X: Tensor, y: Tensor) -> Tensor:
        def loss(params: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
            return nn.functional.cross_entropy(functional_call(self.model, params, x[None]), label[None])

        params = {k: v.detach() for k, v in self.params.items()}
        return torch.cat([g.flatten(1) for g in vmap(grad(loss), (None, 0, 0))(params, X, y).values()], dim=1)

    def train_gradients(self) -> list[Tensor]:
        return [self._gradients(X, y) for X, y in zip(self.X.split(250), self.y.split(250))]

    def hvp(self) -> Callable[[Tensor], Tensor]:
        """Double backward through one kept gradient graph; the ridge is added by the caller."""
        params = list(self.params.values())
        loss = nn.functional.cross_entropy(self.model(self.X), self.y)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params, create_graph=True)])
        return lambda v: _flat(torch.autograd.grad(gradient, params, v, retain_graph=True))

    def ggnvp(self) -> Callable[[Tensor], Tensor]:
        """``Jᵀ S J v / n``: ``J v`` by the double-backward trick, ``S = diag(p) − p pᵀ``."""
        params = list(self.params.values())
        logits = self.model(self.X)
        probe = torch.zeros_like(logits, requires_grad=True)
        pulled = torch.cat(
            [g.flatten() for g in torch.autograd.grad(logits, params, probe, create_graph=True)]
        )
        p = logits.detach().softmax(dim=1)

        def product(v: Tensor) -> Tensor:
            (jv,) = torch.autograd.grad(pulled, probe, v, retain_graph=True)
            sjv = (p * jv - p * (p * jv).sum(dim=1, keepdim=True)) / len(p)
            return _flat(torch.autograd.grad(logits, params, sjv, retain_graph=True))

        return product

    def dense(self) -> tuple[Tensor, Tensor]:
        hvp, eye = self.hvp(), torch.eye(self.size, dtype=torch.float64)
        H = torch.stack([hvp(e) for e in eye]) + self.ridge * eye
        H = 0.5 * (H + H.T)
        rhs = self._gradients(self.Xq, self.yq).T
        solution = torch.cholesky_solve(rhs, torch.linalg.cholesky(H))
        iterations = torch.tensor([_cg(lambda v: H @ v, b, FLOOR_RTOL)[1] for b in rhs.T])
        return solution, iterations

    def _check_positive(self, product: Callable[[Tensor], Tensor], steps: int = 80) -> None:
        """CG on a few right-hand sides can miss a negative eigenvalue; the smallest Ritz value does not."""
        v = torch.randn(self.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        basis, ritz = [v / v.norm()], torch.zeros(steps, steps, dtype=torch.float64)
        for k in range(steps):
            w = product(basis[k])
            ritz[k, k] = basis[k] @ w
            for _ in range(2):
                Q = torch.stack(basis)
                w = w - Q.T @ (Q @ w)
            if k + 1 < steps:
                ritz[k, k + 1] = ritz[k + 1, k] = w.norm()
                basis.append(w / w.norm())
        smallest = float(torch.linalg.eigvalsh(ritz)[0])
        if smallest + self.ridge <= 0:
            raise SystemExit(
                f"reference: smallest eigenvalue {smallest:.1e} of the loss curvature, expected more than "
                f"{-self.ridge:.1e}, minus weight decay and damping: raise the task's damping"
            )

    def cg(self, product: Callable[[Tensor], Tensor], tell: Callable[[str], None]) -> tuple[Tensor, Tensor]:
        columns, iterations = [], []
        tell("smallest eigenvalue")
        self._check_positive(product)
        rhs = self._gradients(self.Xq, self.yq)
        for i, b in enumerate(rhs):
            tell(f"float64 CG, query {i + 1} of {len(rhs)}")
            x, _, early = _cg(lambda v: product(v) + self.ridge * v, b, RTOL)
            columns.append(x)
            iterations.append(early)
        return torch.stack(columns, dim=1), torch.tensor(iterations)


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.flatten() for part in parts]).detach()


def _cg(product: Callable[[Tensor], Tensor], b: Tensor, rtol: float) -> tuple[Tensor, int, int]:
    """Textbook CG; returns x, iterations, iterations to ``FLOOR_RTOL``. Raises unless the *recomputed*
    residual meets ``rtol`` within a factor of two."""
    x, r, p, size, early = torch.zeros_like(b), b.clone(), b.clone(), b.norm(), 0
    for k in range(1, 5001):
        w = product(p)
        curvature, rho = p @ w, r @ r
        if curvature <= 0:
            raise SystemExit(
                "reference: the damped curvature is not positive definite; raise the task's damping"
            )
        x, r = x + rho / curvature * p, r - rho / curvature * w
        if early == 0 and r.norm() <= FLOOR_RTOL * size:
            early = k
        if r.norm() <= rtol * size:
            true_residual = float((b - product(x)).norm() / size)
            if true_residual > 2 * rtol:
                raise SystemExit(
                    f"reference: true residual {true_residual:.1e}, expected at most {2 * rtol:.1e}"
                )
            return x, k, early
        p = r + (r @ r) / rho * p
    raise SystemExit("reference: CG did not converge in 5,000 iterations")
