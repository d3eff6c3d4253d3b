"""`S(p) = diag(p) − p pᵀ` and its factors, accurate also where one probability is close to one.

Writing `1 − p_c` as a subtraction loses all digits for a confident prediction in float32, and confident
predictions are what a trained classifier makes. The sum of the other probabilities is used there instead.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Probabilities summed in float64 at once: more would be noticed in memory for a large vocabulary.
_PIECE = 2**22


def softmax_complement(p: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """`1 − p` without cancellation: at most one `p_c` exceeds ½; its complement is the sum of the others."""
    large = p > 0.5
    others = torch.where(large, 0.0, p).sum(-1, keepdim=True)
    return torch.where(large, others, 1.0 - p)


def softmax_curvature(p: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c c"]:
    """`S(p)`, a `c × c` matrix for each row of probabilities."""
    diagonal = torch.diag_embed(p * softmax_complement(p))
    off_diagonal = 1.0 - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    return diagonal - p.unsqueeze(-1) * p.unsqueeze(-2) * off_diagonal


def softmax_curvature_apply(
    p: Float[Tensor, "*b c"], vectors: Float[Tensor, "*kb c"]
) -> Float[Tensor, "*kb c"]:
    """`S(p) v` in `O(c)`; `vectors` may have more leading dimensions than `p`.

    `S 1 = 0`, so `v` is first shifted to be zero at the likeliest class, which removes the cancellation.
    """
    top = p.argmax(-1, keepdim=True).expand(*vectors.shape[:-1], 1)
    shifted = vectors - vectors.gather(-1, top)
    return p * (shifted - (p * shifted).sum(-1, keepdim=True))


def softmax_curvature_sqrt(p: Float[Tensor, "*b c"], chosen: slice | None = None) -> Float[Tensor, "*b c r"]:
    """`L` with `L Lᵀ = S(p)` and `c − 1` columns, its rank, or the chosen ones of them.

    `S = diag(√p) (I − √p √pᵀ) diag(√p)`. The Householder reflection with `v = √p + e_t`, `t` the likeliest
    class, maps `√p` to `−e_t`, so its other columns are an orthonormal basis of the complement of `√p`. They
    give
        column `c ≠ t`:  `√p_c (e_c − w)`,  `w_t = √p_t`,  `w_j = p_j / (1 + √p_t)`,
    in which nothing cancels, as `w_c < ½`; the column of an impossible class is zero. (In the triangular root
    of Tanabe & Sagae 1992 small tail sums divide.)
    """
    classes = p.shape[-1]
    top = p.argmax(-1, keepdim=True)
    # The last class takes the place of the likeliest among the columns.
    numbers = torch.arange(classes - 1, device=p.device)[chosen if chosen is not None else slice(None)]
    columns = numbers.expand(*p.shape[:-1], len(numbers))
    columns = torch.where(columns == top, classes - 1, columns)
    largest = p.gather(-1, top).sqrt()
    w = (p / (1.0 + largest)).scatter(-1, top, largest)
    root = p.gather(-1, columns).sqrt().unsqueeze(-2)
    at_class = torch.arange(classes, device=p.device).unsqueeze(-1) == columns.unsqueeze(-2)
    return root * (at_class.to(p.dtype) - w.unsqueeze(-1))


def softmax_residual(p: Float[Tensor, "*b c"], labels: Int[Tensor, "*b"]) -> Float[Tensor, "*b c"]:
    """`p − y` for the one-hot `y` of integer labels: the gradient of cross-entropy in the logits."""
    at_label = torch.nn.functional.one_hot(labels, p.shape[-1]).bool()
    return torch.where(at_label, -softmax_complement(p), p)


def softmax_minus(p: Float[Tensor, "*b c"], mass: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """`W p − m` for a mass `m ≥ 0` of sum `W`: the gradient of cross-entropy with soft targets.

    `W p_c − m_c = p_c Σ_{k≠c} m_k − m_c Σ_{k≠c} p_k`: where all of the mass is on the likeliest class, as for
    a hard label, nothing cancels. Sums over the others are not taken as differences from the whole.
    """
    return p * _sum_of_others(mass) - mass * softmax_complement(p)


def _sum_of_others(values: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
    """`Σ_{k≠c} v_k` of non-negative values: by a difference only where that loses no more than a bit."""
    total = values.sum(-1, keepdim=True)
    large = values > 0.5 * total
    rest = torch.where(large, 0.0, values).sum(-1, keepdim=True)
    return torch.where(large, rest, total - values)


def draw_classes(p: Float[Tensor, "*b c"], uniforms: Float[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    """Classes with probabilities `p`, by inverting the distribution function at numbers between 0 and 1."""
    rows, shares = p.reshape(-1, p.shape[-1]), uniforms.reshape(-1).to(p.device)
    size = max(1, _PIECE // p.shape[-1])
    drawn = []
    for some, share in zip(rows.split(size), shares.split(size)):
        below = some.double().cumsum(-1)
        # A share of the sum, which rounding keeps from one; a class of probability zero is stepped over.
        drawn.append((below < (share.double() * below[:, -1])[:, None]).sum(-1))
    return torch.cat(drawn).reshape(p.shape[:-1])
