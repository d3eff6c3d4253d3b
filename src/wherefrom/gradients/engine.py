"""One object that linearises batches of an objective, in the cheapest way its structure allows, within
memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from wherefrom.errors import InputError
from wherefrom.gradients.autograd import (
    AutogradLinearisation,
    looped_vjp_each,
    vmap_failure,
    vmapped_vjp_each,
)
from wherefrom.gradients.derivative_check import check_loss, check_outputs, right_forward_product
from wherefrom.gradients.derivative_probe import DerivativeProbe, probe
from wherefrom.gradients.forward_products import ForwardProduct
from wherefrom.gradients.linear_head import LinearHeadLinearisation, find_linear_head
from wherefrom.gradients.linearisation import Evaluated, Linearisation
from wherefrom.gradients.operations import CALL, ELEMENTWISE, Counted, count_forward
from wherefrom.gradients.rounding import PROBES, OutputRounding, measure_rounding
from wherefrom.memory import fitting
from wherefrom.task import Examples, Objective

# At most this many columns are applied together.
MAX_COLUMNS = 64
# Share of the budget for graphs kept between products, and for one product's working memory.
_KEEP_SHARE = 0.4
_WORK_SHARE = 0.25
# Beyond this many bytes of working memory a product leaves the caches and gains nothing from a larger batch.
_WORK_CEILING = 128 * 2**20
# A product over fewer examples than this is mostly overhead: fewer columns go together instead.
_GOOD_BATCH = 64
_FEATURE_BATCH = 512
# Beyond this many columns the activations of a batch leave the caches and a second derivative gets slower.
_AUTOGRAD_COLUMNS = 20
_PROBE = 8
# A product with a Jacobian and its transpose, in forward passes.
_PRODUCT = 5


@dataclass(frozen=True)
class _HeadCache:
    features: Tensor
    outputs: Tensor
    targets: Any


class GradientEngine:
    """Linearisations of an objective at `θ̂`, per-example gradients included.

    Attributes:
        forward_products: how `J v` is taken, where autograd takes it: the first way that works and is right.
        structure: `"linear head"` (outputs affine in the parameters: Hessian and GGN coincide for a convex
            loss) or `"autograd"`.
        per_example: how per-example gradients are taken, with the reason where it is the slow way.
        columns, batch_size: columns and examples that go through one product together; results depend on them
            only by rounding.
    """

    def __init__(self, objective: Objective, batch_size: int | None = None):
        self.objective = objective
        self.head = find_linear_head(objective)
        self._heads: dict[int, tuple[Examples, _HeadCache | None]] = {}
        self._feature_batch = min(batch_size or _FEATURE_BATCH, _FEATURE_BATCH)
        self._kept: list[tuple[slice, Linearisation]] | None = None
        if self.head is not None:
            self.structure, self.per_example = "linear head", "closed form"
            self._bytes_per_example = 4 * self.head.outputs_each * objective.dtype.itemsize
        else:
            self.structure = "autograd"
            self._bytes_per_example = _graph_bytes(objective)
            reason = vmap_failure(objective)
            self.per_example = "vmap" if reason is None else f"one by one ({reason})"
            self._each = vmapped_vjp_each(objective) if reason is None else looped_vjp_each(objective)
        self.columns, self.batch_size = self._sizes(batch_size)
        self.forward_products: ForwardProduct = "transposed"
        self._derivatives_checked = False

    def check_derivatives(self) -> None:
        """Refuse a model or a loss whose derivatives torch returns wrong, and settle how `J v` is taken.

        Done once, and by the first linearisation at the latest. Whoever checks the examples as well does that
        first: data that are wrong are then refused in words of their own.

        Raises:
            UnsupportedError: with what is wrong.
        """
        if self._derivatives_checked:
            return
        if self.head is None:
            check_outputs(self.probe)
            self.forward_products = right_forward_product(self.probe)
            if self.forward_products == "explicit rows":
                self.batch_size = min(self.batch_size, self.rows_per_batch())
        check_loss(self.probe)
        self._derivatives_checked = True

    @functools.cached_property
    def probe(self) -> DerivativeProbe:
        """A few training examples on which derivatives are checked."""
        return probe(self.objective, self._bytes_per_example)

    @functools.cached_property
    def rounding(self) -> OutputRounding:
        """How far rounding moves the outputs, measured once on a few training examples."""
        objective = self.objective
        chosen = torch.tensor(objective.examples.spread(PROBES), device=objective.device)
        return measure_rounding(self.linearise(objective.examples, chosen), objective.parameters.flat())

    @property
    def affine(self) -> bool:
        """Whether the outputs are proved affine in the studied parameters."""
        return self.head is not None

    def _sizes(self, given: int | None) -> tuple[int, int]:
        """Columns and examples that go through one product together, within the working memory."""
        n = self.objective.n
        work = self.work_bytes
        per_example = max(1, self._bytes_per_example)
        wanted = min(n, given or _GOOD_BATCH)
        most = MAX_COLUMNS if self.head is not None else _AUTOGRAD_COLUMNS
        columns = int(min(most, max(1, work // (per_example * wanted) - 2)))
        batch = given or max(1, work // (per_example * (2 + columns)))
        return columns, int(min(n, batch))

    @property
    def work_bytes(self) -> int:
        """Working memory of one product."""
        return int(min(self.objective.memory * _WORK_SHARE, _WORK_CEILING))

    def forward_batch(self, most: int) -> int:
        """Examples of a pass, at most so many, whose outputs and what is made of them fit the working
        memory."""
        return fitting(self.work_bytes, self._bytes_per_example, most)

    @property
    def bytes_each(self) -> int:
        """What a derivative saves of one example."""
        return self._bytes_per_example

    @functools.cached_property
    def operations_each(self) -> float:
        """Operations of the model on one example, in those of a matrix product in float32 that take as long:
        counted, so that nothing chosen by them depends on how fast a machine is or what else runs on it."""
        weight = self.objective.dtype.itemsize / 4
        if self.head is not None:
            return 2.0 * weight * self.head.features_each * self.head.outputs_each
        numbers = self._bytes_per_example / self.objective.dtype.itemsize
        return weight * (self._counted.operations + ELEMENTWISE * numbers)

    @functools.cached_property
    def _counted(self) -> Counted:
        return count_forward(self.objective)

    def product_operations(self, columns: int) -> float:
        """Operations of a product with a Gauss-Newton matrix over the training set, forward and back, the
        start of each of torch's functions included."""
        n = self.objective.n
        # A closed form costs little beside its two matrix products.
        calls = 4 if self.head is not None else _PRODUCT * self._counted.calls
        times = 2 if self.head is not None else _PRODUCT
        blocks = -(-columns // self.columns)
        return times * columns * n * self.operations_each + blocks * -(-n // self.batch_size) * calls * CALL

    def graph_bytes(self) -> int:
        """Estimated bytes of what repeated products over the training set reuse: graphs, or a linear head's
        features."""
        if self.head is not None:
            return self._feature_bytes(self.objective.examples)
        return self._bytes_per_example * 3 * self.objective.n

    def rows_per_batch(self, rows_each: int = 1) -> int:
        """Examples whose `rows_each` explicit `p`-vectors fit the working memory."""
        per_example = self.objective.p * rows_each * self.objective.dtype.itemsize * 2
        return fitting(self.work_bytes, per_example, self.batch_size)

    def linearise(self, examples: Examples, where: slice | Tensor) -> Linearisation:
        """The linearisation of these examples."""
        self.check_derivatives()
        if self.head is None:
            return AutogradLinearisation(
                self.objective, examples.batch(where), each=self._each, forward=self.forward_products
            )
        cache = self._head_cache(examples)
        if cache is None:
            batch = examples.batch(where)
            features, outputs = self.head.features(batch)
            targets = self.objective.targets(batch)
        else:
            features, outputs = cache.features[where], cache.outputs[where]
            targets = tree_map(lambda leaf: leaf[where], cache.targets)
        return LinearHeadLinearisation(features, outputs, targets, has_bias=self.head.has_bias)

    def evaluated(self, examples: Examples, where: slice | Tensor) -> Evaluated:
        """Outputs and targets of these examples, without anything to differentiate."""
        batch = examples.batch(where)
        made = Evaluated()
        with torch.no_grad():
            made.outputs = self.objective.outputs(self.objective.parameters.values, batch)
        made.targets = self.objective.targets(batch)
        return made

    def training_passes(self) -> Iterator[tuple[slice, Linearisation]]:
        """Linearisations that cover the training set once; graphs are kept between calls when they fit."""
        if self._kept is not None:
            yield from self._kept
            return
        self.check_derivatives()  # it may lower the batch size
        examples = self.objective.examples
        keep = self.graph_bytes() <= self.objective.memory * _KEEP_SHARE
        kept = []
        for start in range(0, len(examples), self.batch_size):
            where = slice(start, min(start + self.batch_size, len(examples)))
            linearisation = self.linearise(examples, where)
            if keep:
                kept.append((where, linearisation))
            yield where, linearisation
        if keep:
            self._kept = kept

    def _head_cache(self, examples: Examples) -> _HeadCache | None:
        """Features, outputs and targets of a whole data set, computed once if they fit."""
        if id(examples) not in self._heads:
            self._heads = {
                key: entry for key, entry in self._heads.items() if entry[0] is self.objective.examples
            }
            self._heads[id(examples)] = (examples, self._read_head(examples))
        return self._heads[id(examples)][1]

    def _read_head(self, examples: Examples) -> _HeadCache | None:
        assert self.head is not None
        if self._feature_bytes(examples) > self.objective.memory * _KEEP_SHARE:
            return None
        features, outputs, targets = [], [], []
        for _, batch in examples.batches(self._feature_batch):
            read, made = self.head.features(batch)
            features.append(read)
            outputs.append(made)
            targets.append(self.objective.targets(batch))
            if features[-1].shape[1:] != features[0].shape[1:]:
                return None  # sequences of different lengths in different batches
        if not all(isinstance(leaf, Tensor) and leaf.ndim for leaf in tree_flatten(targets)[0]):
            return None
        return _HeadCache(
            torch.cat(features), torch.cat(outputs), tree_map(lambda *leaves: torch.cat(leaves), *targets)
        )

    def _feature_bytes(self, examples: Examples) -> int:
        assert self.head is not None
        return self.head.features_each * self.objective.dtype.itemsize * len(examples)


def _graph_bytes(objective: Objective) -> int:
    """Bytes that autograd saves per example for a first and a second derivative, measured on a few examples,
    or on one where a few would take more than the working memory."""
    few = min(_PROBE, objective.n)
    one = _measured_bytes(objective, 1)
    return one if few == 1 or few * one > _WORK_SHARE * objective.memory else _measured_bytes(objective, few)


def _measured_bytes(objective: Objective, count: int) -> int:
    batch = objective.examples.batch(range(count))
    fixed = {
        value.data_ptr() for value in [*objective.parameters.values.values(), *objective.constants.values()]
    }
    fixed |= {leaf.data_ptr() for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in fixed:
            seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    leaves = {name: value.requires_grad_() for name, value in objective.parameters.values.items()}
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = objective.outputs(leaves, batch)
    finally:
        for value in leaves.values():
            value.requires_grad_(False)
    if not outputs.requires_grad:
        raise InputError(
            "the model's outputs do not depend on the studied parameters by differentiable operations. "
            "Remove torch.no_grad() and "
            "detach() from the forward pass, or choose parameters= that the outputs depend on."
        )
    largest = outputs.numel() * outputs.element_size()
    return (sum(seen.values()) + 2 * largest) // count + 1
