"""The search for the smallest removal that flips a prediction: one pass over single scores, or Newton's steps
in between."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wherefrom.interventions.decision import Decision
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.interventions.linear_refits import LinearRefits

# Refits of one query and rival; the interval of sizes usually closes in four to eight.
_ROUNDS = 30
# Sets of one size, each ranked from the parameters without the last, that may fail before the size does.
_TRIES = 3
# Where the best ranking of the largest set leaves more of the margin than this, no other is tried.
_HOPELESS = 0.6


@dataclass(frozen=True)
class Found:
    """What a search found for each of `m` pairs of a query and a rival class.

    Attributes:
        order: `(m, n)`: the ranking whose prefix is the set; one example of each class is kept back, at its
            end.
        size: `(m,)`: length of that prefix; 0 where no set flips the prediction.
        after: `(m,)`: the predicted margin without the set; without as many as were allowed where none was
            found.
        became: `(m,)`: the label that is predicted without the set, or that of the rival.
        first: `(m,)`: the size that single scores at `θ̂` alone predict, 0 for none.
        settled: `(m,)`: whether every refit the answer rests on reached its optimum.
    """

    order: Int[Tensor, "m n"]
    size: Int[Tensor, " m"]
    after: Float[Tensor, " m"]
    became: Int[Tensor, " m"]
    first: Int[Tensor, " m"]
    settled: Bool[Tensor, " m"]


def greedy(
    scores: Float[Tensor, "m n"],
    margins: Float[Tensor, " m"],
    rivals: Int[Tensor, " m"],
    labels: Int[Tensor, " n"] | None,
    most: int,
    reduction: Reduction,
) -> Found:
    """Rank once, by the scores of the margin; take the smallest prefix whose summed change takes the margin
    below zero (Yang et al. 2023, Algorithm 1)."""
    order = _ranked(scores, labels)
    curve = _curve(scores, order, margins, margins.new_zeros(len(margins)), 0, reduction)
    size = _crossing(curve, most)
    after = curve.gather(1, torch.where(size > 0, size, most)[:, None])[:, 0]
    return Found(order, size, after, rivals, size, torch.ones_like(size, dtype=torch.bool))


def iterated_newton(
    refits: LinearRefits,
    queries: Float[Tensor, "m d"],
    fixed: Float[Tensor, "m c"],
    directions: Float[Tensor, "m c"],
    predicted: Int[Tensor, " m"],
    decision: Decision,
    labels: Int[Tensor, " n"] | None,
    most: int,
) -> Found:
    """Rank, refit without the prefix, rank anew from there, until the smallest prefix that flips is known.

    At the parameters without a set, scores with the curvature that is left say what each other removal would
    do, and what each that was removed did: the next candidate is the prefix of *that* ranking whose summed
    change ends at zero. Sizes are bracketed between one that flips and one that does not, so each answer is a
    set after whose removal a Newton-converged refit predicts another class, and no smaller prefix of the
    rankings seen does (after Yang et al. 2023, who re-estimate a set once it is found, too).

    Args:
        refits: of the linear model.
        queries: features of the query of each pair, with the one of the bias.
        fixed: the part of its outputs that is not studied.
        directions: `∇_f` of the margin over the pair's rival.
        predicted: label of the query.
        decision: from outputs to labels.
        labels: classes of the training examples, none of which may lose its last example.
        most: largest set, at least 1.
    """
    measured = directions[:, :, None] * queries[:, None, :]

    def outputs_of(theta: Tensor, pair: Tensor) -> Tensor:
        return (theta * queries[pair][:, None, :]).sum(2) + fixed[pair]

    def over_rival(theta: Tensor, pair: Tensor) -> Tensor:
        return (outputs_of(theta, pair) * directions[pair]).sum(1)

    m, n = len(queries), refits.n
    device = queries.device
    everything = torch.ones(m, n, dtype=torch.bool, device=device)
    pairs = torch.arange(m, device=device)
    theta = refits.start.expand(m, -1, -1).clone()
    scores = refits.scores(everything, theta, measured)
    rivals, at_start = decision.rival_labels(directions), over_rival(theta, pairs)
    start = greedy(scores, at_start, rivals, labels, most, refits.reduction)
    order, best_order = start.order.clone(), start.order.clone()
    after, became = start.after.clone(), rivals.clone()
    low, high, tries = torch.zeros_like(pairs), torch.full_like(pairs, n + 1), torch.zeros_like(pairs)
    settled = torch.ones_like(pairs, dtype=torch.bool)
    size = torch.where(start.size > 0, start.size, most)
    active = pairs
    for _ in range(_ROUNDS):
        if not len(active):
            break
        kept = _kept(order[active], size[active])
        theta[active], reached = refits.refit(kept, theta[active])
        settled[active] &= reached
        outputs = outputs_of(theta[active], active)
        margin = decision.margins(outputs, predicted[active])
        flips = reached & (margin < 0)
        high[active[flips]] = size[active[flips]]
        # Where nothing flips, what is shown is the last set tried.
        shown = flips | (high[active] > n)
        best = active[shown]
        best_order[best], after[best] = order[best], margin[shown]
        became[active[flips]] = decision.labels(outputs)[flips]

        scores = refits.scores(kept, theta[active], measured[active])
        gone = (scores * ~kept).sum(1)
        order[active] = _ranked(scores, labels)
        tries[active] += 1
        failed = ~flips & ((tries[active] >= _TRIES) | _same_sets(kept, _kept(order[active], size[active])))
        low[active[failed]] = torch.maximum(low[active], size[active])[failed]
        curve = _curve(
            scores, order[active], over_rival(theta[active], active), gone, size[active], refits.reduction
        )
        next_size = _crossing(curve, most)
        next_size = torch.where(next_size > 0, next_size, most)
        hopeless = ~flips & (size[active] == most) & (curve[:, most] > _HOPELESS * at_start[active])
        low[active[hopeless]] = most
        next_size = torch.minimum(torch.maximum(next_size, low[active] + 1), high[active] - 1)
        tries[active[next_size != size[active]]] = 0
        size[active] = next_size
        active = active[(next_size > low[active]) & (next_size <= most)]
    return Found(best_order, torch.where(high <= n, high, 0), after, became, start.size, settled)


def class_codes(labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Labels as `0, 1, …`."""
    return labels.unique(return_inverse=True)[1]


def _curve(
    scores: Float[Tensor, "m n"],
    order: Int[Tensor, "m n"],
    margins: Float[Tensor, " m"],
    gone: Float[Tensor, " m"],
    size: Int[Tensor, " m"] | int,
    reduction: Reduction,
) -> Float[Tensor, "m k"]:
    """The margin, to first order at the parameters without a set, when the first `k = 0..n−1` of `order` are
    removed in its stead.

    The gradient of the objective moves by `(T − S_k)/(n−k) − (T − gone)/(n−size)` times the curvature of the
    margin, `T` and `S_k` sums of scores over all and over the prefix; by weights `1/n` for `"sum"`.
    """
    n = scores.shape[1]
    summed = torch.cat([scores.new_zeros(len(scores), 1), scores.gather(1, order).cumsum(1)[:, :-1]], dim=1)
    total = scores.sum(1, keepdim=True)
    if reduction == "mean":
        left = n - torch.arange(n, dtype=scores.dtype, device=scores.device)
        here = (total - gone[:, None]) / (
            n - torch.as_tensor(size, dtype=scores.dtype, device=scores.device).reshape(-1, 1)
        )
    else:
        left, here = scores.new_full((n,), float(n)), (total - gone[:, None]) / n
    return margins[:, None] + here - (total - summed) / left


def _crossing(curve: Float[Tensor, "m k"], most: int) -> Int[Tensor, " m"]:
    """The first size from 1 to `most` at which the curve is below zero, 0 if there is none."""
    below = curve[:, : most + 1] < 0
    below[:, 0] = False
    return torch.where(below.any(1), below.int().argmax(1), 0)


def _ranked(scores: Float[Tensor, "m n"], labels: Int[Tensor, " n"] | None) -> Int[Tensor, "m n"]:
    """Lowest score first; of each class the highest comes last of all, to be kept."""
    if labels is None:
        return scores.argsort(dim=1, stable=True)
    keys = scores.clone()
    for label in range(int(labels.max()) + 1):
        own = scores.masked_fill(labels != label, -torch.inf)
        keys.scatter_(1, own.argmax(1, keepdim=True), torch.inf)
    return keys.argsort(dim=1, stable=True)


def _kept(order: Int[Tensor, "m n"], size: Int[Tensor, " m"]) -> Bool[Tensor, "m n"]:
    steps = torch.arange(order.shape[1], device=order.device)
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, order, steps >= size[:, None])


def _same_sets(one: Bool[Tensor, "m n"], other: Bool[Tensor, "m n"]) -> Bool[Tensor, " m"]:
    return (one == other).all(1)


def largest_set(n: int, labels: Int[Tensor, " n"] | None, most: int | None) -> int:
    """The largest set looked for: a tenth of the training set unless told otherwise, and one example of each
    class is kept."""
    return min(
        math.ceil(n / 10) if most is None else most, n - (1 if labels is None else int(labels.max()) + 1)
    )
