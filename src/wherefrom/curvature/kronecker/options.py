"""How Kronecker factors are gathered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wherefrom.arguments import whole
from wherefrom.errors import InputError

Method = Literal["ekfac", "kfac", "diagonal"]
Labels = Literal["auto", "exact", "sampled"]
Sharing = Literal["expand", "reduce"]


@dataclass(frozen=True)
class KroneckerOptions:
    """How the factors are gathered.

    Attributes:
        method: `"ekfac"`, `"kfac"` or `"diagonal"`.
        labels: `"exact"` takes the output curvature as it is, root by root (for a softmax: the expectation
            over classes); `"sampled"` draws labels from the model; `"auto"`: exact up to 16 roots an example.
        draws: labels drawn per example.
        sharing: of weights over positions: `"expand"` treats them as independent, `"reduce"` averages
            activations and sums gradients first (Eschenhagen et al. 2023).
        strict: as in `LayerGradients`.
        seed: of the draws.

    Raises:
        InputError: an unknown choice.
    """

    method: Method = "ekfac"
    labels: Labels = "auto"
    draws: int = 1
    sharing: Sharing = "expand"
    strict: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("method", ("ekfac", "kfac", "diagonal")),
            ("labels", ("auto", "exact", "sampled")),
            ("sharing", ("expand", "reduce")),
        ):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, known))}"
                )
        whole("draws", self.draws, 1)
