"""Several signs of a wrong label as one number.

The combination is a weighted sum of z-scores of three signs that look from different sides: what the model
as it is thinks of the label (`margin`), what it would think had it not seen the example
(`left_out_margin`), and, at half the weight, whether the example pulls against the validation set
(`relative_harm`), where there is one. All three are bounded for a loss with probabilities, so that no
single example sets the scale. It was chosen among the subsets of up to four signals and four ways to put
them on one scale; `docs/labels.md` says on which data, and what it gains on others.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from whence.errors import InputError

WEIGHTS: Mapping[str, float] = {"margin": 1.0, "left_out_margin": 1.0, "relative_harm": 0.5}


def combine(
    signals: Mapping[str, Float[Tensor, " n"]], weights: Mapping[str, float] | None = None
) -> Float[Tensor, " n"]:
    """Weighted mean of the z-scores of some signals; larger is more suspicious.

    Args:
        signals: by name.
        weights: of some of them, not negative; those of `WEIGHTS` that are there by default. A signal that is
            the same everywhere says nothing and counts as zero.

    Raises:
        InputError: a weight for what is no signal, none at all, or a negative one.
    """
    chosen = {name: w for name, w in WEIGHTS.items() if name in signals} if weights is None else dict(weights)
    unknown = [name for name in chosen if name not in signals]
    if unknown or not chosen:
        raise InputError(
            f"weights={chosen!r}: expected a weight for one or more of the signals found, "
            f"{', '.join(map(repr, signals))}"
        )
    total = sum(chosen.values())
    if min(chosen.values()) < 0 or total <= 0:
        raise InputError(f"weights={chosen!r}: expected weights of at least zero, not all of them zero")
    scored = [weight * z_scores(signals[name]) for name, weight in chosen.items()]
    return torch.stack(scored).sum(0) / total


def z_scores(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Values less their mean, over their standard deviation; zeros where all are the same."""
    wide = values.double()
    centred = wide - wide.mean()
    size = centred.square().mean().sqrt()
    # Equal values leave rounding of the mean, which is no signal.
    same = size <= 1e-12 * wide.abs().max()
    return torch.zeros_like(wide) if bool(same) else centred / size
