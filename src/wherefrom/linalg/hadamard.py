"""A cheap form of the damped EK-FAC inverse: a few separable terms and the entries they miss.

In the Kronecker eigenbasis a score of two rank-one gradients is
`s(q,t) = Σ_oi W_oi (δ_q,o a_q,i)(δ_t,o a_t,i)` with `W = 1/(Λ+λ)`: `o·i` multiplications for a pair. Where
`W ≈ Σ_r u_r v_rᵀ`, each term is a product of two Gram entries, `(Σ_o u δ_q δ_t)(Σ_i v a_q a_t)`: `o+i`.

Estimated eigenvalues are no low-rank matrix: what the first terms leave over looks like noise, and it sits in
the entries where the eigenvalue is not small beside the damping. So the terms are fitted *without* those, and
they are then added exactly, one multiplication each: a low-rank plus sparse splitting in the weights of the
scores' own error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.linalg.weighted_low_rank import WeightedFit

RANKS = (0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SEARCH_SWEEPS, POLISH_SWEEPS = 3, 8


@dataclass(frozen=True)
class HadamardExpansion:
    """`1/(Λ+λ) ≈ Σ_r left_r right_rᵀ + Σ_k values_k e_rows(k) e_columns(k)ᵀ`.

    Attributes:
        left, right: the separable terms, `(r, o)` and `(r, i)`.
        rows, columns, values: entries added to the terms; together with them such an entry is exact.
        predicted_error: root mean square error of the scores relative to their root mean square, over pairs
            whose gradients are uncorrelated in the eigenbasis with the given second moments; an estimate.
        score_rms: root mean square of the exact scores under the same assumption, in the scores' units.
        amplification: root mean square of `Σ_r |left_r||right_rᵀ|` relative to that of the inverse, in the
            same weights: rounding errors of a lower precision grow by it.
        attained: whether `predicted_error ≤ rtol`.
    """

    left: Float[Tensor, "r o"]
    right: Float[Tensor, "r i"]
    rows: Int[Tensor, " k"]
    columns: Int[Tensor, " k"]
    values: Float[Tensor, " k"]
    predicted_error: float
    score_rms: float
    amplification: float
    attained: bool

    @property
    def rank(self) -> int:
        """Separable terms."""
        return len(self.left)

    @property
    def entries(self) -> int:
        """Entries added exactly."""
        return len(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        """`(o, i)`."""
        return self.left.shape[1], self.right.shape[1]

    @property
    def operations(self) -> int:
        """Multiplications for one pair of rank-one gradients; the full inverse takes `o·i`."""
        return self.rank * sum(self.shape) + self.entries

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> HadamardExpansion:
        """The same expansion in another precision or on another device."""
        return replace(
            self,
            left=self.left.to(device=device, dtype=dtype),
            right=self.right.to(device=device, dtype=dtype),
            rows=self.rows.to(device),
            columns=self.columns.to(device),
            values=self.values.to(device=device, dtype=dtype),
        )

    def dense(self) -> Float[Tensor, "o i"]:
        """The approximated inverse, entry by entry."""
        full = self.left.T @ self.right
        full[self.rows, self.columns] += self.values
        return full

    def scores(
        self,
        query_left: Float[Tensor, "q o"],
        query_right: Float[Tensor, "q i"],
        train_left: Float[Tensor, "t o"],
        train_right: Float[Tensor, "t i"],
        *,
        block: int = 512,
    ) -> Float[Tensor, "q t"]:
        """Scores of rank-one gradients given by their factors in the eigenbasis.

        Args:
            query_left, train_left: output-side factors `δ`.
            query_right, train_right: input-side factors `a`.
            block: entries multiplied out at a time; memory `block · (q + t)` beside the scores.
        """
        scores = query_left.new_zeros(len(query_left), len(train_left))
        for left, right in zip(self.left, self.right, strict=True):
            scores.addcmul_((query_left * left) @ train_left.T, (query_right * right) @ train_right.T)
        if self.entries:
            # Examples run along the contiguous axis, so that picking an entry copies a whole row.
            sides = [side.T.contiguous() for side in (query_left, query_right, train_left, train_right)]
            parts = zip(
                self.rows.split(block), self.columns.split(block), self.values.split(block), strict=True
            )
            for rows, columns, values in parts:
                queries = sides[0][rows] * sides[1][columns] * values[:, None]
                scores.addmm_(queries.T, sides[2][rows] * sides[3][columns])
        return scores


def expand_inverse(
    eigenvalues: Float[Tensor, "o i"],
    damping: float,
    rtol: float,
    *,
    weights: Float[Tensor, "_ _"] | None = None,
    max_rank: int = 256,
    entry_cost: float = 1.0,
) -> HadamardExpansion:
    """The cheapest expansion of `1/(eigenvalues + damping)` whose scores have the relative error `rtol`.

    Args:
        eigenvalues: `Λ ≥ 0`, output side × input side.
        damping: `λ > 0`, in the units of `Λ`.
        rtol: root mean square error of the scores over pairs, relative to their root mean square, to stay
            below.
        weights: `(o, i)`, `E[G_q,oi²] · E[G_t,oi²]`: the product of the second moments of the queries' and of
            the training gradients in the eigenbasis (only `score_rms` depends on their scale); `Λ²` when not
            given. Moments of few queries follow the largest gradients among them, at the others' cost.
        max_rank: most separable terms.
        entry_cost: cost of an exact entry in multiplications of a separable term; `inf` for no such entries:
            then the smallest rank, and `attained=False` where `max_rank` terms do not reach `rtol`.

    Returns:
        A float64 `HadamardExpansion` on the device of `eigenvalues`; on the CPU, the same for the same input.
        Where nothing is cheaper, it holds every entry that matters and no term (`operations` up to `o·i`).

    Raises:
        InputError: eigenvalues or weights negative or not finite, damping or rtol not positive, shapes that
            differ, `max_rank` below 1.

    Cost: about 30 sweeps of alternating weighted least squares, `O(o·i·r²)` each for the few ranks tried, and
    about eight `o × i` float64 matrices.

    Source: with uncorrelated coordinates the variance of a score's error `Σ E_oi G_q,oi G_t,oi` is
    `Σ E² E[G_q²] E[G_t²]`. Low rank with entry-wise weights: Srebro & Jaakkola 2003, *Weighted low-rank
    approximations*, ICML; started from separable weights. Entries that are far off are down-weighted by the
    estimator of Geman & McClure 1987, which settles on the entries best left to exact addition.
    """
    _check(eigenvalues, damping, rtol, weights, max_rank, entry_cost)
    fit = WeightedFit(
        eigenvalues.double(), float(damping), None if weights is None else weights.double(), rtol
    )
    smaller = min(eigenvalues.shape)
    if math.isinf(entry_cost):
        return _result(fit, *fit.smallest_rank(min(max_rank, smaller)), exact_entries=False)
    ranks = [rank for rank in RANKS if rank <= min(max_rank, smaller)]
    best, cheapest, worse = fit.start(0), math.inf, 0
    for rank in ranks:
        terms = rank * sum(eigenvalues.shape)
        if terms >= cheapest or worse == 2:
            break
        entries, left, right = fit.refine(*fit.start(rank), SEARCH_SWEEPS)
        cost = terms + entry_cost * entries
        if cost < cheapest:
            best, cheapest, worse = (left, right), cost, 0
        elif rank > 4:  # the first few terms pay only together
            worse += 1
        if entries == 0:
            break
    _, left, right = fit.refine(*best, POLISH_SWEEPS)
    return _result(fit, left, right, exact_entries=True)


def _result(fit: WeightedFit, left: Tensor, right: Tensor, *, exact_entries: bool) -> HadamardExpansion:
    """Undo the scaling; add the fewest entries that bring the error down to the tolerance."""
    energy = fit.energy(left, right).flatten()
    order = energy[:0].long()
    if exact_entries:
        ascending, order = energy.sort()
        order = order[int((ascending.cumsum(0) <= fit.allowed).sum()) :].sort()[0]
        energy[order] = 0.0
    error = math.sqrt(float(energy.sum()) / fit.total)
    size = math.sqrt(float((left.abs().T @ right.abs()).square_().mul_(fit.weights).sum()) / fit.total)
    left, right = left / fit.row, right / fit.column
    rows, columns = order // len(fit.column), order % len(fit.column)
    values = fit.inverse[rows, columns] - (left[:, rows] * right[:, columns]).sum(0)
    return HadamardExpansion(
        left=left / fit.damping,
        right=right,
        rows=rows,
        columns=columns,
        values=values / fit.damping,
        predicted_error=error,
        score_rms=fit.unit * math.sqrt(fit.total) / fit.damping,
        amplification=size,
        attained=error**2 * fit.total <= fit.allowed * (1 + 1e-9),  # summed in another order above
    )


def _check(
    eigenvalues: Tensor,
    damping: float,
    rtol: float,
    weights: Tensor | None,
    max_rank: int,
    entry_cost: float,
) -> None:
    def positive(name: str, value: float, *, infinite: bool = False) -> None:
        if not value > 0 or (math.isinf(value) and not infinite):
            raise InputError(f"{name} is {value}; expected a positive number: choose one.")

    positive("damping", damping)
    positive("rtol", rtol)
    positive("entry_cost", entry_cost, infinite=True)
    if max_rank < 1:
        raise InputError(f"max_rank is {max_rank}; expected at least 1: allow one separable term or more.")
    for name, values in (("eigenvalues", eigenvalues), ("weights", weights)):
        if values is None:
            continue
        if values.ndim != 2 or values.numel() == 0:
            raise InputError(
                f"{name} have the shape {tuple(values.shape)}; expected (o, i), neither of them 0."
            )
        if not bool(torch.isfinite(values).all()) or float(values.min()) < 0:
            raise InputError(
                f"{name} range from {float(values.min()):.3g} to {float(values.max()):.3g}; expected finite "
                "numbers ≥ 0: second moments are never negative, clamp what rounding has left below 0."
            )
    if weights is not None and weights.shape != eigenvalues.shape:
        raise InputError(
            f"weights have the shape {tuple(weights.shape)} and eigenvalues {tuple(eigenvalues.shape)}; "
            "expected the same shape: give the second moments in the eigenbasis."
        )
