"""Two passes over the training set: Kronecker factors, then the eigenvalues in their basis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from wherefrom.curvature.choose import choose_curvature
from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.kronecker.basis import Basis, bases_fingerprint, eigenbasis, identity_basis
from wherefrom.curvature.kronecker.curvature import KroneckerCurvature
from wherefrom.curvature.kronecker.moments import MAX_SIDE, KroneckerMoments
from wherefrom.curvature.kronecker.options import KroneckerOptions
from wherefrom.curvature.kronecker.ranges import Ranges
from wherefrom.curvature.kronecker.sums import EigenvalueSums, ExampleSums
from wherefrom.curvature.metrics import OutputMetric, SampledFisherMetric, SampledRootsMetric
from wherefrom.curvature.roots import require_room_for_roots
from wherefrom.errors import InputError, NonFiniteError, UnsupportedError
from wherefrom.gradients import Capture, GradientEngine, LayerGradients
from wherefrom.layers import GradientForm, OuterProducts
from wherefrom.linalg import split_diagonal
from wherefrom.progress import progress_bar
from wherefrom.task import Objective

# With "auto", up to this many gradients per example are taken exactly instead of by drawing labels.
EXACT_ROOTS = 16
# Added to the seed for the second pass.
_SECOND_DRAW = 1 << 40


class KroneckerGathering:
    """The steps from a training set to a Kronecker approximation, for one process or several.

    Each process gathers the moments of its part of the examples; merged, they give the bases (once: hand the
    file to all). Each then gathers the eigenvalue sums of its part in these bases; merged, they give the
    curvature. A part is a range of examples, taken in batches from its start: the sums are the same for every
    division into parts up to the rounding of sums, and the same to the bit for the same parts and batch size.

    Args:
        operator: whose data term is approximated.
        layers: factored gradients of the same objective.
        options: how.
        progress: show bars.

    Attributes:
        labels: where the gradients come from: `"exact"`, `"sampled"`, or the name of the Fisher.
        words: the same as a phrase.

    Cost: for EK-FAC two passes over the training set, each a forward pass and one backward pass per root of
    the output curvature, without gradients of parameters; a pass less for the others.

    Sources: Martens & Grosse 2015; George et al. 2018 (EK-FAC); Grosse et al. 2023, §2.2.
    """

    def __init__(
        self,
        operator: GaussNewtonOperator,
        layers: LayerGradients,
        options: KroneckerOptions,
        *,
        progress: bool = True,
    ):
        self.operator = operator
        self.layers = layers
        self.options = options
        self.progress = progress
        self.blocks = layers.blocks
        self.n = layers.objective.n
        self._metric, self.labels, self.words = _metric(operator, options)
        # In bases fitted to the same draws, directions that these draws miss look flatter than they are.
        self._eigenvalue_metric = _redrawn(self._metric) if self.labels == "sampled" else self._metric

    @classmethod
    def of(
        cls,
        objective: Objective,
        options: KroneckerOptions | None = None,
        *,
        curvature: str = "ggn",
        batch_size: int | None = None,
        progress: bool = True,
    ) -> KroneckerGathering:
        """From an objective, such as that of an `Influence` that is not fitted.

        Args:
            objective: model, loss and training set.
            options: how; EK-FAC by default. Its seed is that of `Influence(seed=)`.
            curvature: `"ggn"`, `"fisher"`, `"sampled_fisher"` or `"empirical_fisher"`.
            batch_size: of products with the curvature.
            progress: show bars.

        Raises:
            InputError: an unknown curvature.
            UnsupportedError: one without Kronecker factors, or a model whose layers cannot be told apart.
        """
        options = options or KroneckerOptions()
        engine = GradientEngine(objective, batch_size)
        operator = choose_curvature(engine, curvature, seed=options.seed).operator
        for term in split_diagonal(operator)[0]:
            if isinstance(term, GaussNewtonOperator):
                layers = LayerGradients(engine, strict=options.strict)
                return cls(term, layers, options, progress=progress)
        raise UnsupportedError(
            f"curvature={curvature!r} has no Kronecker factors; expected 'ggn', 'fisher', 'sampled_fisher' "
            "or 'empirical_fisher'"
        )

    @property
    def needs_moments(self) -> bool:
        """Whether there is a first pass."""
        return self.options.method != "diagonal"

    @property
    def needs_eigenvalues(self) -> bool:
        """Whether there is a second pass."""
        return self.options.method != "kfac"

    @property
    def all_examples(self) -> Ranges:
        return Ranges([(0, self.n)])

    @property
    def name(self) -> str:
        """Method, labels and sharing in a few characters."""
        parts = [self.options.method, self.labels, self.options.sharing]
        return "-".join(parts if self.needs_moments else parts[:2])

    def batch_size(self) -> int:
        """Examples per batch, from the memory budget."""
        first = self.operator.roots.first
        return self.layers.batch_size(self._together(), self._metric.held_each(first))

    def moments(self, examples: range | None = None, *, batch_size: int | None = None) -> KroneckerMoments:
        """The first pass, over all examples or a range of them.

        Raises:
            InputError: a range outside the training set or with steps.
        """
        sums = KroneckerMoments.empty(self.blocks)
        self.extend(sums, self._asked(examples), batch_size=batch_size)
        return sums

    def bases(self, moments: KroneckerMoments | None) -> list[Basis]:
        """The bases: eigenvectors of the factors, or `None` of the moments for the diagonal.

        Raises:
            InputError: the moments do not cover the training set.
            NonFiniteError: they hold NaN or infinity.
        """
        dtype = self.layers.objective.dtype
        if moments is None:
            return [identity_basis(block, dtype) for block in self.blocks]
        moments.require(self.n)
        return [eigenbasis(block, moments.block(block.name), self.n, dtype) for block in self.blocks]

    def eigenvalues(
        self, bases: Sequence[Basis], examples: range | None = None, *, batch_size: int | None = None
    ) -> EigenvalueSums:
        """The second pass: sums of `(Q_Bᵀ G Q_A)²`, over all examples or a range of them.

        Raises:
            InputError: a range outside the training set or with steps.
        """
        sums = EigenvalueSums.empty(self.blocks, bases_fingerprint(self.blocks, bases))
        self.extend(sums, self._asked(examples), bases, batch_size=batch_size)
        return sums

    def curvature(self, bases: Sequence[Basis], sums: EigenvalueSums | None) -> KroneckerCurvature:
        """`Λ = (1/n) Σ (Q_Bᵀ G Q_A)²`, the best diagonal in the bases (George et al. 2018), or without sums
        the products of the factors' eigenvalues (K-FAC).

        Raises:
            InputError: the sums do not cover the training set, or were gathered in other bases.
            NonFiniteError: they hold NaN or infinity.
        """
        if sums is None:
            values = [basis.kronecker_eigenvalues for basis in bases]
        else:
            sums.require(self.n)
            if sums.basis and sums.basis != bases_fingerprint(self.blocks, bases):
                raise InputError("sums: gathered in other bases than those given; gather them in these")
            dtype = self.layers.objective.dtype
            values = [(sums.sums[block.name] / self.n).to(dtype) for block in self.blocks]
        for block, value in zip(self.blocks, values):
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(
                    f"block {block.name!r}: its eigenvalues hold NaN or infinity; gradients overflow at the "
                    "trained parameters. Use dtype=torch.float64 or leave the layer out with parameters=."
                )
        return KroneckerCurvature(self.options.method, self.blocks, bases, values, self.n, self.words)

    def extend(
        self,
        sums: ExampleSums,
        examples: Ranges,
        bases: Sequence[Basis] | None = None,
        *,
        batch_size: int | None = None,
        after_batch: Callable[[], None] | None = None,
    ) -> None:
        """Add examples to moments, or to eigenvalue sums in `bases`.

        Args:
            sums: added to in place.
            examples: which.
            bases: of eigenvalue sums.
            batch_size: by default from the memory budget.
            after_batch: called when a batch is in the sums.
        """
        size = self.batch_size() if batch_size is None else batch_size
        label = "eigenvalues" if isinstance(sums, EigenvalueSums) else "Kronecker factors"
        with progress_bar(label, len(examples), enabled=self.progress) as bar:
            for first, stop in examples.pairs:
                for start in range(first, stop, size):
                    where = slice(start, min(start + size, stop))
                    if isinstance(sums, EigenvalueSums):
                        assert bases is not None
                        self._add_squares(sums, bases, where)
                    else:
                        assert isinstance(sums, KroneckerMoments)
                        self._add_moments(sums, where)
                    sums.cover(where)
                    bar.advance(where.stop - where.start)
                    if after_batch is not None:
                        after_batch()

    def _add_squares(self, sums: EigenvalueSums, bases: Sequence[Basis], where: slice) -> None:
        """A batch's gradients in the bases, squared: root by root of the output curvature."""
        capture = self.layers.capture(self.layers.objective.examples, where)
        for _, roots in self._parts(self._eigenvalue_metric, capture, where):
            pairs = zip(capture.gradients(roots), bases)
            sums.add(self.blocks, (form.rotated(basis.left, basis.right) for form, basis in pairs))

    def _add_moments(self, sums: KroneckerMoments, where: slice) -> None:
        """A batch's second moments. Which positions are padding shows in all roots together only, so that of
        several parts a random mixture is pulled back as well."""
        capture = self.layers.capture(self.layers.objective.examples, where)
        parts = self._parts(self._metric, capture, where)
        place, roots = next(parts)
        if place.stop == self._metric.count(capture):
            forms = self._shared(capture.gradients(roots))
            sums.add_gradients(self.blocks, forms)
            sums.add_activations(self.blocks, forms)
            return
        mixed = torch.zeros_like(roots[0])
        generator = torch.Generator().manual_seed(0)
        for _, some in chain([(place, roots)], parts):
            sums.add_gradients(self.blocks, self._shared(capture.gradients(some)))
            shares = torch.randn(some.shape[0], generator=generator, dtype=torch.float64).to(some)
            mixed += torch.tensordot(shares, some, dims=1)
        sums.add_activations(self.blocks, self._shared(capture.gradients(mixed[None])))

    def _parts(self, metric: OutputMetric, capture: Capture, where: slice) -> Iterator[tuple[slice, Tensor]]:
        require_room_for_roots(metric, capture, self.layers.objective.memory)
        return metric.parts(capture, where, self._together() * capture.outputs.numel())

    def _together(self) -> int:
        """Roots that are pulled back together."""
        return min(self._metric.count(self.operator.roots.first), self.layers.roots_together())

    def _shared(self, forms: list[GradientForm]) -> list[GradientForm]:
        if self.options.sharing != "reduce":
            return forms
        return [form.reduced() if isinstance(form, OuterProducts) else form for form in forms]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that the factors depend on, as JSON values."""
        metric = self._metric
        drawn = (
            {"draws": metric.draws, "seed": metric.seed} if isinstance(metric, SampledFisherMetric) else {}
        )
        return {
            **self.layers.objective.identity(),
            **drawn,
            "curvature": self.operator.metric.name,
            "labels": self.labels,
            "method": self.options.method,
            "sharing": self.options.sharing,
            "blocks": {block.name: [block.kind, *block.shape] for block in self.blocks},
            "max_side": MAX_SIDE,
        }

    def _asked(self, examples: range | None) -> Ranges:
        if examples is None:
            return self.all_examples
        if examples.step != 1 or examples.start < 0 or examples.stop > self.n:
            raise InputError(
                f"examples={examples}: expected a range of the {self.n:,} training examples, in steps of 1"
            )
        return Ranges([(examples.start, examples.stop)])


def _redrawn(metric: OutputMetric) -> OutputMetric:
    """The same with labels drawn independently."""
    assert isinstance(metric, SampledFisherMetric)
    return type(metric)(metric.loss, metric.draws, metric.seed + _SECOND_DRAW)


def _metric(operator: GaussNewtonOperator, options: KroneckerOptions) -> tuple[OutputMetric, str, str]:
    """Where the gradients come from, in a word and in words."""
    metric = operator.metric
    if metric.name == "empirical_fisher":
        return metric, metric.name, "gradients at the training labels (empirical Fisher)"
    if metric.name == "sampled_fisher":
        return metric, metric.name, "labels drawn from the model"
    sampled = SampledFisherMetric(metric.loss, options.draws, options.seed)
    if options.labels == "sampled":
        return sampled, "sampled", f"labels drawn from the model, {options.draws} an example"
    first = operator.roots.first
    roots = metric.count(first)
    exact = metric, "exact", f"output curvature taken exactly, {roots:,} gradients an example"
    if options.labels == "exact" or roots <= EXACT_ROOTS:
        return exact
    drawn = drawn_metric(operator, options)
    if drawn is None:
        return exact
    words = f"{drawn[1]}, {options.draws} an example ({roots:,} gradients exactly, more than {EXACT_ROOTS}); "
    return drawn[0], "sampled", words + "the error of drawing is part of the measured distance"


def drawn_metric(
    operator: GaussNewtonOperator, options: KroneckerOptions
) -> tuple[SampledFisherMetric, str] | None:
    """Random gradients that stand in for the roots of the output curvature, and what they are; `None` where
    the loss cannot draw them."""
    loss = operator.metric.loss
    for kind, what in (
        (SampledFisherMetric, "labels drawn from the model"),
        (SampledRootsMetric, "vectors drawn for the output curvature"),
    ):
        made = kind(loss, options.draws, options.seed)
        try:
            made.cotangents(operator.roots.first, slice(0, 1))
        except UnsupportedError:
            continue
        return made, what
    return None
