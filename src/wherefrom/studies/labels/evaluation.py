"""How well a ranking finds wrong labels that are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from wherefrom.errors import InputError, NonFiniteError

SHARES = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)

Values = Sequence[float | int | bool] | np.ndarray | Tensor


def found_fraction(order: Values, wrong: Values, shares: Sequence[float] = SHARES) -> dict[float, float]:
    """Share of the wrong labels met when the examples are checked in `order`, by the share that is checked.

    Args:
        order: every example once, the most suspicious first.
        wrong: for each example whether its label is wrong; by example, not by rank.
        shares: of the examples that are checked, each in (0, 1]; rounded to whole examples.

    Raises:
        InputError: `order` is no permutation of the examples, none or all labels are wrong, a share outside
            (0, 1].
    """
    flags = _flags(wrong)
    ranked = np.asarray(order)
    if ranked.shape != flags.shape or not np.array_equal(np.sort(ranked), np.arange(len(flags))):
        raise InputError(
            f"order has shape {ranked.shape} for {len(flags)} examples; expected each number 0 … "
            f"{len(flags) - 1} once, the most suspicious first"
        )
    bad = [share for share in shares if not 0.0 < share <= 1.0]
    if bad:
        raise InputError(f"shares holds {bad[0]:g}; expected shares of the examples, in (0, 1]")
    met = np.cumsum(flags[ranked]) / flags.sum()
    return {float(share): float(met[max(1, round(share * len(flags))) - 1]) for share in shares}


def auroc(suspicion: Values, wrong: Values) -> float:
    """Probability that a wrong label is more suspicious than a right one (area under the ROC curve).

    Raises:
        InputError: different lengths, none or all labels are wrong, values that are not finite.
    """
    flags = _flags(wrong)
    from sklearn.metrics import roc_auc_score  # takes half a second to load

    return float(roc_auc_score(flags, _suspicion(suspicion, flags)))


def average_precision(suspicion: Values, wrong: Values) -> float:
    """Precision averaged over the wrong labels as they are met from the top; for a random order, their share.

    Raises:
        InputError: different lengths, none or all labels are wrong, values that are not finite.
    """
    flags = _flags(wrong)
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(flags, _suspicion(suspicion, flags)))


def _flags(wrong: Values) -> np.ndarray:
    flags = np.asarray(wrong)
    if flags.ndim != 1 or not np.isin(flags, (0, 1)).all():
        raise InputError(
            f"wrong has shape {flags.shape} and dtype {flags.dtype}; expected one True or False per example"
        )
    flags = flags.astype(bool)
    if flags.all() or not flags.any():
        raise InputError(
            f"{int(flags.sum())} of {len(flags)} labels are wrong; expected some wrong and some right ones"
        )
    return flags


def _suspicion(suspicion: Values, flags: np.ndarray) -> np.ndarray:
    values = np.asarray(suspicion, dtype=np.float64)
    if values.shape != flags.shape:
        raise InputError(
            f"suspicion has shape {values.shape} for {len(flags)} examples; expected one number per example"
        )
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"suspicion of example {int(np.flatnonzero(~np.isfinite(values))[0])} is NaN or infinite; "
            "expected finite numbers"
        )
    return values
