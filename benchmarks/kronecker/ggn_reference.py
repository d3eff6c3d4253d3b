"""Float64 scores of the damped full Gauss-Newton matrix, every term between layers included.

Classes: exactly, in the dual space. With `J` the `nC × p` Jacobian of the logits and `S = blockdiag(diag(p)
− ppᵀ)`, `(JᵀSJ/n + λI)⁻¹` needs `JJᵀ` only (Woodbury): one Cholesky factorisation, then any query.

Tokens: `t · vocabulary` outputs an example are too many; conjugate gradients on the products `Jᵀ S J v`,
the vectors preconditioned by the float64 EK-FAC reference, for the first queries.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import capturing
import kronecker_reference
import numpy as np
import torch
from capturing import Data, Pass
from estimands import Estimand
from torch import Tensor

CG_QUERIES = 3
CG_TOLERANCE = 1e-3
COLUMNS = 8_000  # of the Jacobian held at once


def build(task: Path, path: Path, tell: Callable[[str], None]) -> None:
    """Writes `scores` (queries × train) for all queries, or the first `CG_QUERIES` of a language model."""
    data = capturing.load(task)
    scores = _by_cg(data, tell) if data.kind == "gpt2" else _by_dual(data, tell)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, scores=scores.numpy())
    os.replace(partial, path)


def _by_dual(data: Data, tell: Callable[[str], None]) -> Tensor:
    """`S = (1/λ) [G_q·G_i − (R g_q)ᵀ (nλ + RRᵀ)⁻¹ (R g_i)]` with `R = S^{1/2} J`, `g = Jᵀ(p − y)`."""
    n = len(data.y)
    gram, outputs = _jacobian_gram(data, tell)
    classes = outputs.shape[-1]
    residuals = capturing.residual(outputs, torch.cat([data.y, data.yq]))
    # Column i: J Jᵀ (p − y)_i, for all examples; then the gradients' inner products.
    against = (gram.view(-1, len(outputs), classes) * residuals).sum(-1)
    inner = torch.einsum("jci,jc->ji", against.view(len(outputs), classes, -1), residuals)
    p = outputs[:n].softmax(-1)
    roots = _psd_root(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    rg = torch.einsum("jcd,jdi->jci", roots, against.view(len(outputs), classes, -1)[:n]).flatten(0, 1)
    tell("float64 dual matrix")
    dual = gram[: n * classes, : n * classes]
    for j in range(n):  # S^{1/2} from the left and from the right, block by block, in place
        rows = slice(j * classes, (j + 1) * classes)
        dual[rows] = roots[j] @ dual[rows]
    for j in range(n):
        rows = slice(j * classes, (j + 1) * classes)
        dual[:, rows] = dual[:, rows] @ roots[j]
    dual.diagonal().add_(n * data.damping)
    tell("float64 Cholesky factorisation")
    factor = torch.linalg.cholesky(dual)
    solved = torch.cholesky_solve(rg[:, n:], factor)
    return (inner[n:, :n] - solved.T @ rg[:, :n]) / data.damping


def _jacobian_gram(data: Data, tell: Callable[[str], None]) -> tuple[Tensor, Tensor]:
    """`J Jᵀ` over train and queries, rows by example then class, and their logits."""
    kept = Pass(data, torch.cat([data.X, data.Xq]))
    examples, classes = kept.outputs.shape
    eye = torch.eye(classes, dtype=kept.outputs.dtype)
    columns = [kept.deltas(eye[c].expand(examples, classes)) for c in range(classes)]
    outputs = kept.outputs.detach()
    gram = torch.zeros(examples * classes, examples * classes, dtype=outputs.dtype)
    for name in data.modules:
        tell(f"float64 Jacobian products: {name}")
        a = kept.a[name]
        delta = torch.stack([column[name] for column in columns], dim=1)  # example, class, position, output
        if a.shape[1] == 1:
            inner = (a[:, 0] @ a[:, 0].T).repeat_interleave(classes, 1)
            rows = delta[:, :, 0].flatten(0, 1)
            for j in range(examples):  # in row blocks: no second matrix of this size
                block = slice(j * classes, (j + 1) * classes)
                gram[block] += (rows[block] @ rows.T) * inner[j]
            continue
        step = max(1, COLUMNS // a.shape[2])
        for o in range(0, delta.shape[3], step):
            part = torch.einsum("bcto,bti->bcoi", delta[..., o : o + step], a).flatten(0, 1).flatten(1)
            _add_gram(gram, part)
    return gram, outputs


def _add_gram(gram: Tensor, part: Tensor, block: int = 2048) -> None:
    """`gram += part partᵀ`, the upper blocks computed, the lower ones copied."""
    for i in range(0, len(part), block):
        for j in range(i, len(part), block):
            product = part[i : i + block] @ part[j : j + block].T
            gram[i : i + block, j : j + block] += product
            if i != j:
                gram[j : j + block, i : i + block] += product.T


def _psd_root(matrices: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrices)
    return vectors @ (values.clamp_min(0.0).sqrt()[..., None] * vectors.transpose(-1, -2))


def _by_cg(data: Data, tell: Callable[[str], None]) -> Tensor:
    e = Estimand("ekfac", "sampled")
    precondition = kronecker_reference.fit(data, e, tell)
    names = data.modules
    queries = kronecker_reference.gradients(data, data.Xq[:CG_QUERIES], data.yq[:CG_QUERIES], e)
    b = {name: queries[name] for name in names}
    x = {name: torch.zeros_like(g) for name, g in b.items()}
    r = {name: g.clone() for name, g in b.items()}
    z = {name: precondition(name, r[name]) for name in names}
    direction = {name: v.clone() for name, v in z.items()}
    rho, start = _dot(r, z), _dot(b, b).sqrt()
    for iteration in range(500):
        residual = (_dot(r, r).sqrt() / start).max().item()
        tell(f"float64 CG on the Gauss-Newton matrix: iteration {iteration}, residual {residual:.1e}")
        if residual <= CG_TOLERANCE:
            break
        w = _ggn_products(data, direction)
        step = rho / _dot(direction, w)
        for name in names:
            x[name] += step[:, None, None] * direction[name]
            r[name] -= step[:, None, None] * w[name]
        z = {name: precondition(name, r[name]) for name in names}
        rho, before = _dot(r, z), rho
        direction = {name: z[name] + (rho / before)[:, None, None] * direction[name] for name in names}
    blocks = []
    for X, y in kronecker_reference.batches(data, data.X, data.y):
        train = kronecker_reference.gradients(data, X, y, e)
        blocks.append(sum(x[name].flatten(1) @ train[name].flatten(1).T for name in names))
    return torch.cat(blocks, dim=1)


def _dot(u: dict[str, Tensor], v: dict[str, Tensor]) -> Tensor:
    return sum((u[name] * v[name]).flatten(1).sum(1) for name in u)  # type: ignore[return-value]


def _ggn_products(data: Data, vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`(G + λ) v` for each of the stacked vectors `(k, o, i + 1)`."""
    everything = {name: p.detach() for name, p in data.model.named_parameters()}
    total = {name: data.damping * v for name, v in vectors.items()}
    for X, _ in kronecker_reference.batches(data, data.X, data.y):

        def outputs(chosen: dict[str, Tensor], X: Tensor = X) -> Tensor:
            return torch.func.functional_call(data.model, {**everything, **chosen}, X)

        chosen = {k: everything[k] for name in data.modules for k in (f"{name}.weight", f"{name}.bias")}
        out, pull_back = torch.func.vjp(outputs, chosen)
        p = out.softmax(-1)
        for k in range(len(next(iter(vectors.values())))):
            tangent = {}
            for name in data.modules:
                v = vectors[name][k]
                tangent[f"{name}.weight"], tangent[f"{name}.bias"] = v[:, :-1], v[:, -1]
            _, moved = torch.func.jvp(outputs, (chosen,), (tangent,))
            back = pull_back(p * (moved - (p * moved).sum(-1, keepdim=True)) / len(data.y))[0]
            for name in data.modules:
                total[name][k, :, :-1] += back[f"{name}.weight"]
                total[name][k, :, -1] += back[f"{name}.bias"]
    return total
