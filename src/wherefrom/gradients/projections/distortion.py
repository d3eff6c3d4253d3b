"""What a projection does to inner products and norms, measured on the vectors it is used for."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.gradients.projections.base import BoundProjection

# Quantiles of |error| for a normal error of standard deviation one.
_HALF, _TAIL = NormalDist().inv_cdf(0.75), NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Distortion:
    """Errors of a projection on a sample of vectors, beside those of independent normal entries.

    Attributes:
        p, k: dimensions before and after.
        sample: vectors measured; their pairs give the inner products.
        inner_median, inner_95: `|⟨Px, Py⟩ − ⟨x, y⟩| / (‖x‖ ‖y‖)`, median and 95th percentile over the pairs.
        norm_median, norm_95: `|‖Px‖/‖x‖ − 1|`, over the vectors.
        expected_inner_95, expected_norm_95: 95th percentiles that a dense random projection has over seeds:
            `1.96 √((1 + cos²)/k)`, at the pairs' own mean `cos²`, and `1.96 √(1/(2k))` (Johnson &
            Lindenstrauss 1984; Dasgupta & Gupta 2003).
        expected_inner_median, expected_norm_median: the medians that go with them, `0.67/1.96` of them.
    """

    p: int
    k: int
    sample: int
    inner_median: float
    inner_95: float
    norm_median: float
    norm_95: float
    expected_inner_median: float
    expected_inner_95: float
    expected_norm_median: float
    expected_norm_95: float

    def describe(self) -> str:
        """The measurement in a sentence."""
        return (
            f"From {self.p:,} to {self.k:,} dimensions: on {self.sample} gradients, inner products are off "
            f"by {self.inner_median:.2g} of the product of the norms (median; 95% within "
            f"{self.inner_95:.2g}, expected of a random projection {self.expected_inner_95:.2g}) and "
            f"norms by {self.norm_median:.2g} (95% within {self.norm_95:.2g}, expected "
            f"{self.expected_norm_95:.2g})."
        )

    def settings(self) -> dict[str, Any]:
        """The numbers as JSON values, for manifests and reports."""
        return dict(vars(self))


def measure_distortion(
    rows: Float[Tensor, "b p"], projected: Float[Tensor, "b k"], projection: BoundProjection
) -> Distortion:
    """Compare vectors with their projections. Vectors of norm zero say nothing and are left out.

    Args:
        rows: `x`.
        projected: `P x`.
        projection: `P`, for what is expected of it.

    Raises:
        InputError: fewer than two vectors that are not zero.
    """
    norms = rows.double().norm(dim=1)
    there = norms > 0
    if int(there.sum()) < 2:
        raise InputError(
            f"{int(there.sum())} of {len(rows)} gradients are not zero; a distortion is measured on two or "
            "more. Pass examples whose loss depends on the parameters."
        )
    units = rows[there].double() / norms[there, None]
    images = projected[there].double() / norms[there, None]
    before, after = units @ units.T, images @ images.T
    first, second = torch.triu_indices(len(units), len(units), offset=1).to(rows.device)
    cosine = before[first, second]
    inner = (after[first, second] - cosine).abs()
    norm = (images.norm(dim=1) - 1).abs()
    spread = float(projection.expected_inner_error(cosine).square().mean().sqrt())
    return Distortion(
        p=projection.p,
        k=projection.k,
        sample=len(units),
        inner_median=float(inner.median()),
        inner_95=float(inner.quantile(0.95)),
        norm_median=float(norm.median()),
        norm_95=float(norm.quantile(0.95)),
        expected_inner_median=_HALF * spread,
        expected_inner_95=_TAIL * spread,
        expected_norm_median=_HALF * projection.expected_norm_error(),
        expected_norm_95=_TAIL * projection.expected_norm_error(),
    )
