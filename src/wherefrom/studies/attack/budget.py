"""What an edit of a training example may look like: norm, size, valid range, pixel grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.arguments import number, whole
from wherefrom.errors import InputError

Norm = Literal["linf", "l2"]
Grid = Literal["free", "same", "snap"]
Bound = float | int | Sequence[float] | Tensor | None

# Kept from the edge of a grey level, in grey levels, so that rounding to the grid is never a tie.
_MARGIN = 1e-3
# A value this close to the grid, in grey levels, is on it.
_ON_GRID = 1e-3


@dataclass(frozen=True)
class Budget:
    """The set an edited input must stay in, around the original `x₀`.

    Attributes:
        radius: largest `‖x − x₀‖`; in grey levels where `level` is given, else in the units of the inputs.
        norm: `"linf"` or `"l2"`.
        low, high: valid range of the inputs: numbers, or tensors that broadcast to one input (a range per
            channel of normalised images, `(3, 1, 1)`); `None`: no limit.
        level: size of one grey level in the units of the inputs, `1/255` for 8-bit pixels in `[0, 1]`;
            broadcasts like `low`.
        grid: `"free"`: any value; `"same"`: continuous values within half a grey level, that round to the
            8-bit picture `x₀` rounds to (Koh & Liang 2017, §5.2); `"snap"`: values on the grid
            `low + j · level`, of which `x₀` must be one.

        pictures: whether the inputs are pictures, whose levels are grey levels; other inputs are spoken of in
            their own units.

    Raises:
        InputError: `radius ≤ 0`, an unknown norm or grid, an empty range, a grid without `low` and `level`,
            or a radius below one level on the grid, which leaves nothing to change.
    """

    radius: float | int
    norm: Norm = "linf"
    low: Bound = None
    high: Bound = None
    level: Bound = None
    grid: Grid = "free"
    pictures: bool = True

    def __post_init__(self) -> None:
        number("budget: radius", self.radius, above=0)
        if self.norm not in ("linf", "l2"):
            raise InputError(f"budget: norm={self.norm!r}; expected 'linf' or 'l2'")
        if self.grid not in ("free", "same", "snap"):
            raise InputError(f"budget: grid={self.grid!r}; expected 'free', 'same' or 'snap'")
        for name in ("low", "high", "level"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _as_tensor(name, value))
        low, high, level = self._tensors()
        if low is not None and high is not None and not bool((low < high).all()):
            raise InputError(f"budget: low={_shown(low)}, high={_shown(high)}; expected low < high")
        if level is not None and not bool((level > 0).all()):
            raise InputError(f"budget: level={_shown(level)}; expected a size above 0")
        if self.grid != "free" and (low is None or level is None):
            raise InputError(
                f"budget: grid={self.grid!r} needs low= and level=, where the grid begins and how wide a "
                "grey level is. Use Budget.grey_levels(...) for 8-bit pictures"
            )
        if self.grid == "snap" and self.radius < 1:
            raise InputError(
                f"budget: radius={self.radius:g} grey levels with grid='snap' leaves nothing to change; "
                "expected at least 1, or grid='same' for edits that round to the same picture"
            )

    @classmethod
    def grey_levels(
        cls,
        radius: float | int = 0.5,
        *,
        norm: Norm = "linf",
        low: Bound = 0.0,
        high: Bound = 1.0,
        levels: int = 256,
        grid: Grid | None = None,
        pictures: bool = True,
    ) -> Budget:
        """A budget in grey levels of pictures with values from `low` to `high`.

        `grid` is by default `"same"` for an l∞ budget of half a grey level or less, else `"snap"`.
        """
        if low is None or high is None:
            raise InputError("budget: grey levels need low= and high=, the values of black and white")
        whole("budget: levels", levels, 2)
        width = (_as_tensor("high", high) - _as_tensor("low", low)) / (levels - 1)
        if grid is None:
            small = isinstance(radius, (int, float)) and radius <= 0.5
            grid = "same" if norm == "linf" and small else "snap"
        return cls(radius, norm, low, high, width, grid, pictures)

    @property
    def dual(self) -> float:
        """Order of the norm that measures how much a gradient can achieve within the budget: 1 for l∞, 2 for
        l2."""
        return 1.0 if self.norm == "linf" else 2.0

    @property
    def unit(self) -> str:
        """What `radius` is counted in."""
        if self.level is None:
            return "units of the input"
        return "grey levels" if self.pictures else "steps of their range"

    @property
    def words(self) -> str:
        """The radius with its unit; of inputs that are no pictures in their own units."""
        level = self.level
        if self.pictures or level is None:
            return f"{float(self.radius):g} {self.unit}"
        sizes = float(self.radius) * torch.as_tensor(level).double().flatten()
        low, high = float(sizes.min()), float(sizes.max())
        own = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        return f"{own} in the units of the inputs"

    def settings(self) -> dict[str, Any]:
        """JSON values."""
        low, high, level = (None if t is None else t.tolist() for t in self._tensors())
        return {
            "radius": float(self.radius),
            "norm": self.norm,
            "low": low,
            "high": high,
            "level": level,
            "grid": self.grid,
        }

    def check(self, x: Float[Tensor, " b *x"], index: Sequence[int]) -> None:
        """Refuse originals that are not valid themselves.

        Raises:
            InputError: outside the valid range, or off the grid with `grid="snap"`, naming the example.
        """
        low, high, level = self._on(x)
        slack = 1e-6 * float(x.abs().max().clamp(min=1))
        for name, bound, bad in (
            ("low", low, None if low is None else x < low - slack),
            ("high", high, None if high is None else x > high + slack),
        ):
            if bad is not None and bool(bad.any()):
                which = int(bad.flatten(1).any(1).nonzero()[0, 0])
                raise InputError(
                    f"training example {index[which]} has values from {float(x[which].min()):.4g} to "
                    f"{float(x[which].max()):.4g}, outside the valid range ({name}={_shown(bound)}). Give "
                    "the range of the inputs as the model gets them"
                )
        if self.grid == "snap":
            assert low is not None and level is not None
            place = (x - low) / level
            off = (place - place.round()).abs().flatten(1).amax(1)
            if bool((off > _ON_GRID).any()):
                which = int(off.argmax())
                raise InputError(
                    f"training example {index[which]} is up to {float(off[which]):.2g} grey levels off the "
                    "grid; grid='snap' expects originals on it. Check low= and level= (normalised images "
                    "have one per channel), or use grid='free' or 'same'"
                )

    def ascend(
        self, x: Float[Tensor, " b *x"], gradient: Float[Tensor, " b *x"], size: float
    ) -> Float[Tensor, " b *x"]:
        """One step of steepest ascent of length `size` in the norm of the budget, before projection."""
        scale = self._scale(x)
        slope = gradient * scale
        if self.norm == "linf":
            return x + size * scale * slope.sign()
        norm = _per_example(slope.flatten(1).norm(dim=1), x)
        tiny = torch.finfo(x.dtype).tiny
        return x + size * scale * slope / norm.clamp(min=tiny)

    def project(self, x: Float[Tensor, " b *x"], original: Float[Tensor, " b *x"]) -> Float[Tensor, " b *x"]:
        """The nearest point in the norm's ball, then inside the range (for l2 and l∞ that stays in the
        ball)."""
        low, high, level = self._on(x)
        scale = self._scale(x)
        change = (x - original) / scale
        if self.norm == "linf":
            change = change.clamp(-self.radius, self.radius)
        else:
            norm = _per_example(change.flatten(1).norm(dim=1), x)
            change = change * (self.radius / norm.clamp(min=self.radius))
        if self.grid == "same":
            assert low is not None and level is not None
            place = (original - low) / level
            reach = place.round() - place
            change = torch.minimum(change, (reach + 0.5 - _MARGIN).clamp(min=0.0))
            change = torch.maximum(change, (reach - 0.5 + _MARGIN).clamp(max=0.0))
        moved = original + change * scale
        if low is not None:
            moved = torch.maximum(moved, low)
        if high is not None:
            moved = torch.minimum(moved, high)
        return moved

    def emit(self, x: Float[Tensor, " b *x"], original: Float[Tensor, " b *x"]) -> Float[Tensor, " b *x"]:
        """What is written into the training set: with `grid="snap"` the nearest values on the grid that stay
        within the radius, else `x` itself."""
        if self.grid != "snap":
            return x
        scale = self._scale(x)
        change = (x - original) / scale
        steps = change.round()
        if self.norm == "linf":
            steps = steps.clamp(-math.floor(self.radius), math.floor(self.radius))
        else:
            over = steps.flatten(1).norm(dim=1) > self.radius
            steps = torch.where(_per_example(over, x), change.trunc(), steps)
        moved = original + steps * scale
        low, high, _ = self._on(x)
        slack = 0.25 * scale
        outside = torch.zeros_like(moved, dtype=torch.bool)
        if low is not None:
            outside |= moved < low - slack
        if high is not None:
            outside |= moved > high + slack
        # A range that ends between two levels: one step less stays inside.
        return torch.where(outside, original + (steps - steps.sign()) * scale, moved)

    def same_picture(
        self, x: Float[Tensor, " b *x"], original: Float[Tensor, " b *x"]
    ) -> Bool[Tensor, " b"] | None:
        """Whether both round to the same grey levels, example by example; `None` without a grid."""
        low, _, level = self._on(x)
        if low is None or level is None:
            return None
        return (((x - low) / level).round() == ((original - low) / level).round()).flatten(1).all(1)

    def in_levels(self, change: Float[Tensor, " b *x"]) -> Float[Tensor, " b *x"] | None:
        """A change in grey levels; `None` where no level is known."""
        return None if self.level is None else change / self._scale(change)

    def _scale(self, like: Tensor) -> Tensor:
        level = self._on(like)[2]
        return like.new_ones(()) if level is None else level

    def _tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.low, self.high, self.level  # type: ignore[return-value]

    def _on(self, like: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        low, high, level = (None if t is None else t.to(like) for t in self._tensors())
        return low, high, level


def as_budget(budget: Budget | float | int) -> Budget:
    """A number is an l∞ radius in the units of the inputs, without a valid range."""
    return budget if isinstance(budget, Budget) else Budget(budget)


def _as_tensor(name: str, value: Any) -> Tensor:
    try:
        made = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"budget: {name}={value!r}; expected a number or a tensor of numbers") from error
    if not bool(torch.isfinite(made).all()):
        raise InputError(f"budget: {name}={_shown(made)}; expected finite numbers, or None for no limit")
    return made


def _shown(value: Tensor | None) -> str:
    return "None" if value is None else str(value.flatten().tolist() if value.numel() > 1 else float(value))


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (like.ndim - 1)))
