"""Several signs of a wrong label as one number: the default ranking, and weighted means of one's own.

Which sign ranks best depends on the noise, and the labels show which kind it is. Where wrong labels may be
any class, the loss is best: for calibrated probabilities `p` it orders by the chance `(1 − p_y)/p_y` that the
label is wrong. Where they are classes that people confuse, a tiny `p_y` marks an odd example rather than a
wrong label, and the margin, which is bounded, is better. The examples that the model is sure of tell them
apart: labels among the classes that it finds least likely are not confusions. `docs/labels.md` says on which
data this was chosen and what it gave on others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from wherefrom.arguments import number
from wherefrom.errors import InputError
from wherefrom.studies.labels.disagreement import Disagreement

# Shares of far-off labels: the margin alone up to the first, the largest seen with confused classes on sets
# that a model learns; the loss alone from the second, the smallest seen with spread ones.
_CONFUSED, _SPREAD = 0.13, 0.29
# Weight of the harm against one for the loss or margin, and what is added if all labels were learnt by heart.
_HARM, _HARM_MEMORISED = 0.15, 0.3


@dataclass(frozen=True)
class SignRanking:
    """The default ranking, and how it was made.

    Attributes:
        values: larger is more suspicious, `(k,)`.
        far_off: share of the disagreeing labels that are spread over all classes; NaN for two classes, where
            loss and margin rank alike.
        loss_weight: of the loss, in [0, 1]; the rest is the margin's.
        harm_weight: of relative harm, as normal scores, against one for the leading sign; 0 without
            validation data.
    """

    values: Float[Tensor, " k"]
    far_off: float
    loss_weight: float
    harm_weight: float

    @property
    def by(self) -> str:
        """`"loss"` or `"margin"`, the sign that leads it."""
        return "loss" if self.loss_weight >= 0.5 else "margin"


def default_ranking(
    signals: Mapping[str, Float[Tensor, " k"]],
    given: Int[Tensor, " k"],
    confidence: Float[Tensor, "k c"],
    found: Disagreement,
) -> SignRanking:
    """The ranking used where none is asked for.

    The loss, or the margin, or some of both, each in-sample and, where it is known, left out; with validation
    data plus relative harm, at a small weight that grows as far as the model learnt its labels by heart, and
    at the same weight where the left-out predictions are not to be trusted.

    Args:
        signals: by name, as of `label_signals`.
        given: class numbers.
        confidence: as of `wherefrom.studies.labels.disagreement.mean_confidence`.
        found: how often labels and model disagree.
    """
    far_off = far_off_share(given, confidence)
    losses = 0.0 if math.isnan(far_off) else min(1.0, max(0.0, (far_off - _CONFUSED) / (_SPREAD - _CONFUSED)))
    left_out_loss = signals.get("left_out_loss", signals["loss"])
    left_out_margin = signals.get("left_out_margin", signals["margin"])
    # Losses have no upper end: their ranks count. Margins are bounded, and how close to the end tells.
    loss = normal_scores(normal_scores(signals["loss"]) + normal_scores(left_out_loss))
    margin = normal_scores(z_scores(signals["margin"]) + z_scores(left_out_margin))
    values = normal_scores(losses * loss + (1.0 - losses) * margin)
    if "relative_harm" not in signals:
        return SignRanking(values, far_off, losses, 0.0)
    weight = 1.0 if found.too_good else _HARM + _HARM_MEMORISED * found.memorised
    values = values + weight * normal_scores(signals["relative_harm"])
    return SignRanking(values, far_off, losses, weight)


def far_off_share(given: Int[Tensor, " k"], confidence: Float[Tensor, "k c"]) -> float:
    """Of the labels that disagree with the model, among the half of examples it is surest of: how many are
    spread over all other classes, told from those in the less likely half of the classes. In [0, 1]; NaN for
    two classes.
    """
    k, c = confidence.shape
    if c == 2:
        return float("nan")
    sure = confidence.max(1).values.argsort(descending=True, stable=True)[: max(1, k // 2)]
    own = confidence[sure].gather(1, given[sure, None])
    ahead = (confidence[sure] > own).sum(1)
    unlikely = c // 2
    disagree = int((ahead > 0).sum())
    far = int((ahead >= c - unlikely).sum())
    return min(1.0, far * (c - 1) / unlikely / disagree) if disagree else 0.0


def combine(signals: Mapping[str, Float[Tensor, " n"]], weights: Mapping[str, float]) -> Float[Tensor, " n"]:
    """Weighted mean of the z-scores of some signals; larger is more suspicious.

    Args:
        signals: by name.
        weights: of some of them, not negative. A signal that is the same everywhere says nothing and counts
            as zero.

    Raises:
        InputError: a weight for what is no signal, none at all, or a negative one.
    """
    chosen = dict(weights)
    unknown = [name for name in chosen if name not in signals]
    if unknown or not chosen:
        raise InputError(
            f"weights={chosen!r}: expected a weight for one or more of the signals found, "
            f"{', '.join(map(repr, signals))}"
        )
    chosen = {name: number(f"weights[{name!r}]", weight, least=0) for name, weight in chosen.items()}
    total = sum(chosen.values())
    if total <= 0:
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


def normal_scores(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Quantiles of the normal distribution at the ranks, `Φ⁻¹(rank/(n + 1))`; equal values share theirs."""
    ranks = rankdata(values.double().numpy())
    return torch.from_numpy(ndtri(ranks / (len(ranks) + 1.0)))
