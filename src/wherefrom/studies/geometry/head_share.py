"""What is lost when influence looks at the last layer only: its scores against the whole network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.gradients.last_layer import head_objective
from wherefrom.influence import Fit, FitOptions, Measurement, Scores, compute_scores

# Rank correlations above which a ranking of the head's scores is called the network's, and an indication.
_SAME, _ALIKE = 0.9, 0.6


@dataclass(frozen=True)
class HeadAgainstNetwork:
    """Head-only against whole-network scores of the same queries and training examples.

    Attributes:
        head, network: the scores, each with its errors.
        rank_correlation: Spearman's, over all training examples, `(q,)`.
        overlap: the share of the network's `k` most helpful and `k` most harmful examples that are among the
            head's, `(q,)`.
        relative_size: `‖head scores‖ / ‖network scores‖`, `(q,)`.
        same_sign: the share of training examples whose score has the same sign in both, `(q,)`.
        k: for the overlap.
    """

    head: Scores
    network: Scores
    rank_correlation: Float[Tensor, " q"]
    overlap: Float[Tensor, " q"]
    relative_size: Float[Tensor, " q"]
    same_sign: Float[Tensor, " q"]
    k: int

    @property
    def words(self) -> str:
        """What follows, in plain words; medians over the queries, and what holds for nine in ten of them."""
        rank, low = float(self.rank_correlation.median()), float(self.rank_correlation.quantile(0.1))
        verdict = (
            "the head ranks the training examples as the network does"
            if low >= _SAME
            else "the head's ranking is an indication of the network's, not a stand-in for it"
            if low >= _ALIKE
            else "the head's ranking is not the network's: attribute the whole network"
        )
        return (
            f"Rank correlation {rank:.2f} (above {low:.2f} for nine queries in ten), "
            f"{100 * float(self.overlap.median()):.0f}% of the top {self.k} on each side in common, "
            f"{100 * float(self.same_sign.median()):.0f}% of the signs, head scores "
            f"{float(self.relative_size.median()):.2g} times the size of the network's: {verdict}."
        )

    def __repr__(self) -> str:
        return f"HeadAgainstNetwork(queries={len(self.head)}, train={self.head.n_train}): {self.words}"


def head_against_network(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    *,
    k: int = 10,
    options: FitOptions | None = None,
) -> HeadAgainstNetwork:
    """Score the queries with the whole network and with its last linear layer alone, and compare.

    Args:
        fitted: of the network; its studied parameters should be all of them.
        queries, measurement: as for `compute_scores`.
        k: training examples on each side whose overlap is taken.
        options: for the head; by default exact curvature and the network's damping, so that parameters are
            what differs (`"auto"` where the network's layers have dampings of their own).

    Raises:
        UnsupportedError: the model does not end in a linear layer.
        InputError: `k` outside `1 … n`, or the network's studied parameters are those of the head only.
    """
    n = fitted.objective.n
    if not 1 <= k <= n:
        raise InputError(f"k={k}: expected 1 … {n}, the number of training examples")
    objective = head_objective(fitted.objective)
    if set(fitted.objective.parameters.names) <= set(objective.parameters.names):
        raise InputError(
            "the influence function given studies the head only, so there is nothing to compare; expected "
            "one fitted with parameters of earlier layers too (parameters=None for all)."
        )
    if options is None:
        own = fitted.damping
        shared = own.per_block is None and own.diagonal is None and own.value > 0
        options = FitOptions(
            damping=own.value if shared else "auto",
            batch_size=fitted.options.batch_size,
            seed=fitted.options.seed,
            progress=fitted.options.progress,
        )
    network = compute_scores(fitted, queries, measurement)
    head = compute_scores(Fit(objective, options).fit(), queries, measurement)
    return compare_scores(head, network, k)


def compare_scores(head: Scores, network: Scores, k: int = 10) -> HeadAgainstNetwork:
    """The comparison of two sets of scores that are there already.

    Raises:
        InputError: scores of different queries or training sets, or `k` outside `1 … n`.
    """
    if head.values.shape != network.values.shape:
        raise InputError(
            f"head scores have shape {tuple(head.values.shape)}, network scores "
            f"{tuple(network.values.shape)}; expected the same queries and training examples."
        )
    if not 1 <= k <= head.n_train:
        raise InputError(f"k={k}: expected 1 … {head.n_train}, the number of training examples")
    a, b = head.values.double(), network.values.double()
    return HeadAgainstNetwork(
        head=head,
        network=network,
        rank_correlation=_rank_correlation(a, b),
        overlap=0.5 * (_overlap(a, b, k) + _overlap(-a, -b, k)),
        relative_size=a.norm(dim=1) / b.norm(dim=1),
        same_sign=(a.sign() == b.sign()).double().mean(1),
        k=k,
    )


def _rank_correlation(a: Float[Tensor, "q n"], b: Float[Tensor, "q n"]) -> Float[Tensor, " q"]:
    """Spearman's; NaN for scores that are all the same."""
    ranks = [torch.from_numpy(rankdata(values.numpy(), axis=1)) for values in (a, b)]
    centred = [values - values.mean(1, keepdim=True) for values in ranks]
    return (centred[0] * centred[1]).sum(1) / (centred[0].norm(dim=1) * centred[1].norm(dim=1))


def _overlap(a: Float[Tensor, "q n"], b: Float[Tensor, "q n"], k: int) -> Float[Tensor, " q"]:
    marks = [
        torch.zeros_like(values).scatter(1, values.argsort(dim=1, descending=True, stable=True)[:, :k], 1.0)
        for values in (a, b)
    ]
    return (marks[0] * marks[1]).sum(1) / k
