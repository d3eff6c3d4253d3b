"""Is a claimed derivative the slope of the function? Differences at several steps, which know their own
error."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Relative steps, the likely best one first. Small ones see no kink, large ones drown a rounding inside the
# function (a cast to float32 in a float64 network, say).
STEPS = (1e-5, 1e-7, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2)
# So few digits are left of differences in float32.
SHORT_STEPS = (1e-3, 1e-2, 3e-3, 3e-2)
# Agreement to so much is never luck; a smaller difference than the second is no finding.
_AGREES, _FOUND = 1e-6, 1e-4
# A step says something where its own error is below this share of the slope,
_RESOLVED = 0.01
# and speaks against a claim that is off by so many times that error.
_CLEAR = 4.0
# A function that stands still at a smaller step may be rounded to float32 inside; at a larger one it has no
# slope there.
_STILL = 5e-7


@dataclass(frozen=True)
class Discrepancy:
    """A claimed derivative that is not the slope.

    Attributes:
        relative: `‖claimed − measured‖ / max(‖claimed‖, ‖measured‖)`.
        claimed, measured: Euclidean norms.
    """

    relative: float
    claimed: float
    measured: float


def discrepancy(
    function: Callable[[float], Tensor],
    claimed: Float[Tensor, "..."],
    *,
    steps: Sequence[float] = STEPS,
) -> Discrepancy | None:
    """What a derivative is off by, or `None` where nothing speaks against it.

    At each step `h` the forward and the backward difference are compared with each other first: they disagree
    where a kink lies between, and by what rounding leaves. The smallest step that resolves the slope decides,
    and a claim is refused only where another step measures the same slope. So a ReLU or a maximum refuses
    nothing, nor does noise. A function that stands still has the slope 0.

    Args:
        function: `h ↦ f(h)`, of one shape.
        claimed: `f'(0)`.
        steps: sizes `h`, the likely best one first. The first that agrees ends the search.
    """
    with torch.no_grad():
        claimed = claimed.detach()
        at = function(0.0)
        rounding = torch.finfo(claimed.dtype).eps * float(at.norm())
        measured: dict[float, tuple[Tensor, float]] = {}
        for step in steps:
            up, down = function(step) - at, at - function(-step)
            if not bool(torch.isfinite(up).all() and torch.isfinite(down).all()):
                continue
            slope = (up + down) / (2 * step)
            if _off(slope, claimed) <= _AGREES * float(slope.norm()):
                return None
            still = not bool(up.any() or down.any())
            if still and step < _STILL:
                continue
            error = 0.0 if still else max(float((up - down).norm()) / 2, rounding) / step
            measured[step] = slope, error
    return _verdict(measured, claimed, rounding)


def _verdict(
    measured: dict[float, tuple[Tensor, float]], claimed: Tensor, rounding: float
) -> Discrepancy | None:
    size = float(claimed.norm())
    ascending = sorted(measured)
    # Roundings of both differences can be equal by chance, at two steps even, which the next one gives away.
    doubts = [0.0] * (len(ascending) + 1)
    for i, (one, larger) in enumerate(itertools.pairwise(ascending)):
        doubts[i] = _off(measured[one][0], measured[larger][0]) - measured[larger][1]
    for i, step in enumerate(ascending):
        slope, error = measured[step]
        error = max(error, doubts[i], doubts[i + 1])
        scale, off = max(size, float(slope.norm())), _off(slope, claimed)
        if error > _RESOLVED * scale or scale * step <= _CLEAR * rounding:
            continue
        if off <= max(_CLEAR * error, _FOUND * scale):
            return None
        same = [
            other
            for h, (other, _) in sorted(measured.items())
            if h == step or _off(slope, other) <= 0.3 * off
        ]
        if len(same) > 1:
            settled = _most_agreed(same)
            length = float(settled.norm())
            return Discrepancy(_off(settled, claimed) / max(size, length), size, length)
    return None


def _most_agreed(slopes: list[Tensor]) -> Tensor:
    """Of the two that agree best, the one at the larger step: a function that is rounded inside can move by
    one unit to both sides of a small step, which looks more certain than it is."""
    return min(itertools.combinations(slopes, 2), key=lambda pair: _off(*pair))[1]


def _off(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm())
