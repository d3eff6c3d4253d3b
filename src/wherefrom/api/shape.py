"""What `Influence` says about the shape of what was learnt: gradients and curvature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from wherefrom.api.held import Held
from wherefrom.task import Examples, Objective

if TYPE_CHECKING:
    from wherefrom.geometry import GradientBounds, GradientNorms
    from wherefrom.linalg import Estimate
    from wherefrom.spectra import SpectrumReport


class Shape(Held):
    """How steep the model is in its input and in its parameters, and how curved its loss. Only `spectrum`
    needs `fit`.

    Attributes:
        objective: model, loss, parameters and data.
    """

    objective: Objective

    def gradient_norms(
        self,
        examples: Any = None,
        scalar: str | int | Callable[[Tensor, Any], Tensor] = "margin",
    ) -> GradientNorms:
        """`‖∇_x f‖` and `‖∇_θ f‖` of every example, the latter per layer too; see
        `wherefrom.geometry.gradient_norms`. `examples` are read like the training set, which is meant by
        `None`."""
        from wherefrom.geometry import gradient_norms

        return gradient_norms(self.objective, self._read(examples), scalar)

    def gradient_bounds(
        self,
        examples: Any = None,
        scalar: str | int | Callable[[Tensor, Any], Tensor] = "margin",
        **options: Any,
    ) -> GradientBounds:
        """Both sides of the inequality between `‖∇_x f‖²` and `‖∇_θ f‖²`, with every layer's term; see
        `wherefrom.geometry.gradient_bounds` for the options, and for the networks it refuses. `examples` are
        read like the training set, which is meant by `None`."""
        from wherefrom.geometry import gradient_bounds

        return gradient_bounds(self.objective, self._read(examples), scalar, **options)

    def geometric_complexity(
        self, examples: Any = None, *, probes: int | None = None, seed: int = 0
    ) -> Estimate:
        """`(1/n) Σ ‖∂outputs/∂x_i‖_F²`, exact or from random `probes` with its standard error; see
        `wherefrom.geometry.geometric_complexity`. `examples` are read like the training set, which
        is meant by `None`."""
        from wherefrom.geometry import geometric_complexity

        return geometric_complexity(self.objective, self._read(examples), probes=probes, seed=seed)

    def spectrum(
        self,
        *,
        top: int = 10,
        steps: int = 60,
        starts: int = 4,
        groups: Mapping[str, str | Sequence[str]] | None = None,
        learning_rate: float | None = None,
    ) -> SpectrumReport:
        """The spectrum of the fitted curvature, layer by layer, the Hessian's parts, and whether influence
        can be trusted here; see `wherefrom.spectra.spectrum_report`."""
        from wherefrom.spectra import spectrum_report

        return spectrum_report(
            self.fitted,
            top=top,
            steps=steps,
            starts=starts,
            groups=groups,
            learning_rate=learning_rate,
            seed=self.fitted.options.seed,
        )

    def _read(self, examples: Any) -> Examples:
        if examples is None:
            return self.objective.examples
        return self.objective.read(examples, role="examples")
