"""Two passes over the training set: Kronecker factors, then the eigenvalues in their basis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from whence.curvature.gauss_newton import GaussNewtonOperator
from whence.curvature.kronecker.basis import Basis, eigenbasis, identity_basis
from whence.curvature.kronecker.curvature import KroneckerCurvature
from whence.curvature.kronecker.moments import KroneckerMoments
from whence.curvature.metrics import OutputMetric, SampledFisherMetric
from whence.errors import InputError, UnsupportedError
from whence.gradients import LayerGradients
from whence.layers import GradientForm, OuterProducts
from whence.progress import progress_bar

Method = Literal["ekfac", "kfac", "diagonal"]
Labels = Literal["auto", "exact", "sampled"]
Sharing = Literal["expand", "reduce"]
# With "auto", up to this many gradients per example are taken exactly instead of by drawing labels.
_EXACT_ROOTS = 16


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
        if isinstance(self.draws, bool) or not isinstance(self.draws, int) or self.draws < 1:
            raise InputError(f"draws={self.draws!r}: expected an integer ≥ 1")


def gather_kronecker(
    operator: GaussNewtonOperator, layers: LayerGradients, options: KroneckerOptions, *, progress: bool = True
) -> KroneckerCurvature:
    """The Kronecker approximation of a Gauss-Newton or Fisher matrix.

    Cost: for EK-FAC two passes over the training set, each a forward pass and one backward pass per root of
    the output curvature, without gradients of parameters; a pass less for the others.

    Args:
        operator: whose data term is approximated.
        layers: factored gradients of the same objective.
        options: how.
        progress: show a bar.

    Sources: Martens & Grosse 2015; George et al. 2018 (EK-FAC); Grosse et al. 2023, §2.2.
    """
    metric, words = _metric(operator, options)
    passes = _Passes(layers, metric, options.sharing, progress)
    dtype = layers.objective.dtype
    n = layers.objective.n
    if options.method == "diagonal":
        bases = [identity_basis(block, dtype) for block in layers.blocks]
    else:
        moments = gather_moments(passes)
        bases = [eigenbasis(block, moments.blocks[block.name], moments.n, dtype) for block in layers.blocks]
    if options.method == "kfac":
        values = [basis.kronecker_eigenvalues for basis in bases]
    else:
        values = gather_eigenvalues(passes, bases, n)
    return KroneckerCurvature(options.method, layers.blocks, bases, values, n, words)


def gather_moments(passes: _Passes) -> KroneckerMoments:
    """The first pass."""
    moments = KroneckerMoments(passes.layers.blocks)
    for where, forms in passes.run("Kronecker factors"):
        if passes.sharing == "reduce":
            forms = [form.reduced() if isinstance(form, OuterProducts) else form for form in forms]
        moments.add(forms, where.stop - where.start)
    return moments


def gather_eigenvalues(passes: _Passes, bases: list[Basis], n: int) -> list[Tensor]:
    """The second pass: `Λ = (1/n) Σ (Q_Bᵀ G Q_A)²`, the best diagonal in the basis (George et al. 2018)."""
    totals = [
        torch.zeros(block.shape, dtype=torch.float64, device=block.index.device)
        for block in passes.layers.blocks
    ]
    for _, forms in passes.run("eigenvalues"):
        for total, form, basis in zip(totals, forms, bases):
            total += form.rotated(basis.left, basis.right).squares()
    dtype = passes.layers.objective.dtype
    return [(total / n).to(dtype) for total in totals]


@dataclass(frozen=True)
class _Passes:
    """Gradients of all roots of the output curvature, batch by batch."""

    layers: LayerGradients
    metric: OutputMetric
    sharing: Sharing
    progress: bool

    def run(self, what: str) -> Iterator[tuple[slice, list[GradientForm]]]:
        examples = self.layers.objective.examples
        roots = self.metric.cotangents(self.layers.capture(examples, slice(0, 1)), slice(0, 1)).shape[0]
        with progress_bar(what, len(examples), enabled=self.progress) as bar:
            for where, capture in self.layers.captures(examples, cotangents=roots):
                yield where, capture.gradients(self.metric.cotangents(capture, where))
                bar.advance(where.stop - where.start)


def _metric(operator: GaussNewtonOperator, options: KroneckerOptions) -> tuple[OutputMetric, str]:
    """Where the gradients come from, and that in words."""
    metric = operator.metric
    if metric.name == "empirical_fisher":
        return metric, "gradients at the training labels (empirical Fisher)"
    if metric.name == "sampled_fisher":
        return metric, "labels drawn from the model"
    sampled = SampledFisherMetric(metric.loss, options.draws, options.seed)
    if options.labels == "sampled":
        return sampled, f"labels drawn from the model, {options.draws} an example"
    at = operator.engine.linearise(operator.engine.objective.examples, slice(0, 1))
    roots = metric.cotangents(at, slice(0, 1)).shape[0]
    exact = f"output curvature taken exactly, {roots} gradients an example"
    if options.labels == "exact" or roots <= _EXACT_ROOTS:
        return metric, exact
    try:
        sampled.cotangents(at, slice(0, 1))
    except UnsupportedError:
        return metric, exact
    return sampled, f"labels drawn from the model, {options.draws} an example ({roots} gradients exactly)"


def settings_of(options: KroneckerOptions) -> dict[str, Any]:
    """JSON values for manifests."""
    return {
        "method": options.method,
        "labels": options.labels,
        "draws": options.draws,
        "sharing": options.sharing,
        "strict": options.strict,
    }
