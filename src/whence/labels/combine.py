"""Several signs of a wrong label as one number.

The combination is the mean of z-scores of three signs that look from different sides: what the model as it
is thinks of the label (`margin`), what it would think had it not seen the example (`left_out_margin`), and
whether the example pulls against the validation set (`relative_harm`), where there is one. All three are
bounded for a loss with probabilities, so that no single example sets the scale. It was chosen among the
subsets of up to four signals and four ways to put them on one scale; `docs/labels.md` says on which data, and
what it gains on others.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from whence.errors import InputError

PARTS = ("margin", "left_out_margin", "relative_harm")


def combine(
    signals: Mapping[str, Float[Tensor, " n"]], parts: tuple[str, ...] | None = None
) -> Float[Tensor, " n"]:
    """Mean z-score of some signals; larger is more suspicious.

    Args:
        signals: by name.
        parts: which of them; those of `PARTS` that are there by default. A signal that is the same everywhere
            says nothing and counts as zero.

    Raises:
        InputError: a part that is no signal, or none at all.
    """
    chosen = tuple(name for name in PARTS if name in signals) if parts is None else parts
    unknown = [name for name in chosen if name not in signals]
    if unknown or not chosen:
        raise InputError(
            f"parts={chosen!r}: expected one or more of the signals found, {', '.join(map(repr, signals))}"
        )
    return torch.stack([z_scores(signals[name]) for name in chosen]).mean(0)


def z_scores(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Values less their mean, over their standard deviation; zeros where all are the same."""
    wide = values.double()
    centred = wide - wide.mean()
    size = centred.square().mean().sqrt()
    # Equal values leave rounding of the mean, which is no signal.
    same = size <= 1e-12 * wide.abs().max()
    return torch.zeros_like(wide) if bool(same) else centred / size
