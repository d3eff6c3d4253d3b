"""The gradient in the input bounded by the gradient in the parameters, layer by layer and example by
example."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import choice, whole
from wherefrom.errors import UnsupportedError
from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.influence import Attributor
from wherefrom.memory import fitting
from wherefrom.progress import progress_bar
from wherefrom.studies.geometry.chain import ChainLayer, ChainReader, Kind
from wherefrom.studies.geometry.evaluation import checked, norms
from wherefrom.studies.geometry.gradient_norms import slices, squared_block_norms
from wherefrom.studies.geometry.layer_factors import activation_norms, smallest_gram_values, weight_norm
from wherefrom.studies.geometry.scalars import Scalar, resolve_scalar
from wherefrom.studies.geometry.spectral_norms import BatchJacobian, SpectralNorms, largest_singular_values
from wherefrom.task import Objective

# Share of the memory budget for the vectors of the iteration.
_BASIS_SHARE = 0.2
_MOST_EXAMPLES = 256


@dataclass(frozen=True)
class LayerBound:
    """One layer's part: `term · ‖∇_x f‖² ≤ ‖∇_{W,b} f‖²`. Tensors are float64 on the CPU.

    Attributes:
        name: of the module.
        kind: `"dense"`, `"convolution"`, or `"residual"` for the last layer of a residual block.
        weight_norm: `‖W‖₂` of the layer's map; for `"residual"` it has no part in the term.
        activation_norm: `‖h‖` of its input.
        jacobian_norm: `‖∂h/∂x‖₂`; for `"residual"` that of the block's output.
        term: `γ/(‖W‖₂² ‖∂h/∂x‖₂²)`, with `γ = 1 + ‖h‖²` for a dense layer with a bias (see
            `smallest_gram_values`); for `"residual"`, `γ/‖∂out/∂x‖₂²`; 0 where the denominator vanishes.
        gradient_norm: `‖∇_{W,b} f‖`.
        input_norm: `‖∇_x f‖`.
        residual: largest relative residual of the iterations behind the term.
        error: the true term is at least `term (1 − error)`, but with the probability that
            `GradientBounds.certified` states; 0 where all iterations were exhaustive.
    """

    name: str
    kind: Kind
    weight_norm: float
    activation_norm: Float[Tensor, " b"]
    jacobian_norm: Float[Tensor, " b"]
    term: Float[Tensor, " b"]
    gradient_norm: Float[Tensor, " b"]
    input_norm: Float[Tensor, " b"]
    residual: float
    error: float

    @property
    def tightness(self) -> Float[Tensor, " b"]:
        """`term ‖∇_x f‖²/‖∇_{W,b} f‖²`: at most 1 up to `error`; `nan` where both sides vanish."""
        return self.term * self.input_norm.square() / self.gradient_norm.square()


@dataclass(frozen=True)
class GradientBounds:
    """Both sides of `‖∇_x f‖² Σ_t term_t ≤ ‖∇_θ f‖²`, per example; tensors are float64 on the CPU.

    Attributes:
        input_norm: `‖∇_x f‖`.
        parameter_norm: `‖∇_θ f‖` over all studied parameters, also those that have no term.
        layers: in the order of their calls.
        scalar: name of `f`.
        left_out: layers without a term and why (`layers="cut"` only).
    """

    input_norm: Float[Tensor, " b"]
    parameter_norm: Float[Tensor, " b"]
    layers: list[LayerBound]
    scalar: str
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> Float[Tensor, " b"]:
        """`‖∇_x f‖² Σ_t term_t`, from spectral norms that are estimates from below: it may exceed the true
        left side, by no more than `certified` shows."""
        return self._left([0.0] * len(self.layers))

    @property
    def certified(self) -> Float[Tensor, " b"]:
        """A left side that exceeds the true one with probability at most `spectral_norms.FAILURE` over the
        random starts, whatever the gaps in the spectra; usually far more cautious than need be."""
        return self._left([layer.error for layer in self.layers])

    @property
    def right(self) -> Float[Tensor, " b"]:
        """`‖∇_θ f‖²`."""
        return self.parameter_norm.square()

    @property
    def ratio(self) -> Float[Tensor, " b"]:
        """`left/right`: at most 1; `nan` where both vanish."""
        return self.left / self.right

    def _left(self, errors: list[float]) -> Float[Tensor, " b"]:
        terms = (layer.term * (1.0 - error) for layer, error in zip(self.layers, errors))
        return self.input_norm.square() * torch.stack(list(terms)).sum(0)


def gradient_bounds(
    of: Objective | Attributor,
    examples: Any = None,
    scalar: Scalar = "margin",
    *,
    iterations: int = 40,
    layers: str = "every",
    seed: int = 0,
) -> GradientBounds:
    """Both sides of the inequality that a small gradient in the parameters forces a small one in the input.

    `‖∇_x f‖² Σ_t (1 + ‖h_t‖²)/(‖W_t‖₂² ‖∂h_t/∂x‖₂²) ≤ ‖∇_θ f‖²` for every example alone, `f` any scalar
    function of the output; without a bias the 1 drops out. Proof, convolutions, residual blocks and what is
    refused: docs/gradient-bounds.md. Cost: about `2 · iterations` backward passes per layer and batch.

    Args:
        of: an attributor, or an objective; frozen parameters have no part in either side.
        examples: read as the training set is, or `Examples`; the training set if `None`.
        scalar: see `resolve_scalar`.
        iterations: Lanczos steps per spectral norm of a Jacobian (or of a large weight); no more are taken
            than the narrower side of the matrix has dimensions, which is exhaustive.
        layers: `"every"` refuses a model with a studied dense or convolutional layer that some path goes
            around or whose weight is shared; `"cut"` leaves these out of the sum.
        seed: of the random starts.

    Raises:
        InputError: an option out of range, a scalar that gives not one differentiable number per example,
            dropout or batch normalisation in training mode.
        UnsupportedError: a layer outside the theorem (see `layers`), no layer within it, or outputs that
            depend on no floating-point input or on several.
    """
    whole("iterations", iterations, 2)
    choice("layers", layers, ("every", "cut"))
    objective, read = checked(of, examples)
    measure = resolve_scalar(scalar, objective.loss)
    reader = ChainReader(objective, strict=layers == "every")
    gradients = LayerGradients(GradientEngine(objective), strict=False)
    generator = torch.Generator().manual_seed(seed)
    size = _batch_size(objective, reader, gradients, iterations)
    inputs, squares = [], []
    parts: dict[str, list[_Part]] = {}
    weights: dict[str, SpectralNorms] = {}
    with progress_bar("gradient bounds", len(read)) as bar:
        for where in slices(len(read), size):
            graph, found = reader.read(read, where)
            inputs.append(norms(graph.gradients(measure)))
            squares.append(squared_block_norms(gradients, read, where, measure))
            share = 2 * len(read) * len(found)
            for layer in found:
                key = (layer.name, tuple(layer.inputs.shape[1:]))
                if str(key) not in weights:
                    weights[str(key)] = weight_norm(
                        layer, iterations=iterations, generator=generator, share=share
                    )
                part = _part(layer, graph.inputs, weights[str(key)], iterations, generator, share)
                parts.setdefault(layer.name, []).append(part)
            bar.advance(where.stop - where.start)
    input_norm, blocks = torch.cat(inputs), torch.cat(squares, dim=1)
    for name, held in parts.items():
        if sum(len(part.term) for part in held) != len(read):
            raise UnsupportedError(
                f"module {name!r} is a layer of the chain for some batches only: the model's path depends on "
                "its input. Pass the examples of each path apart."
            )
    own = {
        name: [row for block, row in zip(gradients.blocks, blocks) if set(block.parameters) <= held[0].names]
        for name, held in parts.items()
    }
    return GradientBounds(
        input_norm,
        blocks.sum(0).sqrt(),
        [
            _joined(name, held, torch.stack(own[name]).sum(0).sqrt(), input_norm)
            for name, held in parts.items()
        ],
        measure.name,
        dict(reader.left_out),
    )


@dataclass
class _Part:
    """A layer on one batch."""

    kind: Kind
    names: set[str]
    weight: SpectralNorms
    activation: Tensor
    jacobian: SpectralNorms
    term: Tensor


def _part(
    layer: ChainLayer,
    inputs: Tensor,
    weight: SpectralNorms,
    iterations: int,
    generator: torch.Generator,
    share: int,
) -> _Part:
    residual = layer.kind == "residual"
    shape = layer.shape if residual else tuple(layer.inputs.shape)
    jacobian = largest_singular_values(
        BatchJacobian(layer.end if residual else layer.entry, shape, inputs),
        iterations=iterations,
        generator=generator,
        share=share,
    )
    gain = jacobian.values.square() * (1.0 if residual else weight.values.square())
    term = torch.where(gain > 0, smallest_gram_values(layer) / gain, 0.0)
    prefix = "" if layer.name == "model" else f"{layer.name}."
    names = {f"{prefix}{own}" for own in layer.studied}
    return _Part(layer.kind, names, weight, activation_norms(layer), jacobian, term)


def _joined(name: str, held: list[_Part], gradient_norm: Tensor, input_norm: Tensor) -> LayerBound:
    used = [[part.jacobian] if part.kind == "residual" else [part.jacobian, part.weight] for part in held]
    errors = [1.0 - (1.0 - norms[0].error) * (1.0 - norms[-1].error * (len(norms) > 1)) for norms in used]
    return LayerBound(
        name=name,
        kind=held[0].kind,
        weight_norm=max(float(part.weight.values) for part in held),
        activation_norm=torch.cat([part.activation for part in held]),
        jacobian_norm=torch.cat([part.jacobian.values for part in held]),
        term=torch.cat([part.term for part in held]),
        gradient_norm=gradient_norm,
        input_norm=input_norm,
        residual=max(float(one.residuals.max()) for norms in used for one in norms),
        error=max(errors),
    )


def _batch_size(objective: Objective, reader: ChainReader, gradients: LayerGradients, iterations: int) -> int:
    """Examples whose bases of the iteration fit the memory."""
    graph, found = reader.read(objective.examples, slice(0, 1))
    widest = max(
        min(graph.inputs.numel(), max(layer.inputs.numel(), layer.inputs.new_empty(layer.shape).numel()))
        for layer in found
    )
    each = 2 * iterations * widest * objective.dtype.itemsize
    most = min(_MOST_EXAMPLES, gradients.batch_size())
    return fitting(objective.memory * _BASIS_SHARE, each, most)
