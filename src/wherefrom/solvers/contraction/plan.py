"""The plan of a contraction: which way each block goes, what it is predicted to cost, and how wrong it may
be."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from wherefrom.linalg import HadamardExpansion

# What the predictions divide by, as measured on one thread of a processor with 512-bit vectors, in float32;
# only their ratio decides, and it is much the same on others.
_FLOPS_PER_SECOND = 1.5e11
_BYTES_PER_SECOND = 1.5e10


@dataclass(frozen=True)
class BlockPlan:
    """How one block is contracted.

    Attributes:
        block: its name.
        shape: `(g, o, i)`.
        positions: positions of a training gradient.
        method: `"explicit"`: solutions as matrices, one matrix product with the training gradients; `"gram"`:
            products of two inner products, where the inverse is separable; `"low rank"`: sums of such
            products, from an expansion of the inverse; `"query rank"`: solutions as few outer products each;
            `"tokens"`: columns of an embedding, for the tokens on both sides.
        operations, bytes: predicted, for all scores of the block.
        state_bytes: held per query.
        rotate_back: the queries' side is brought back from the eigenbasis.
        rank, entries: terms of the expansion, or of a query's solution on average; entries added to them.
        expansion: of the inverse, where the method is `"low rank"`.
        tolerance: what may be left out of a query's solution, where the method is `"query rank"`.
    """

    block: str
    shape: tuple[int, int, int]
    positions: int
    method: str
    operations: float
    bytes: float
    state_bytes: int
    rotate_back: bool
    rank: int = 0
    entries: int = 0
    expansion: list[HadamardExpansion] | None = None
    tolerance: float = 0.0

    @property
    def exact(self) -> bool:
        """Up to rounding."""
        return self.expansion is None and self.tolerance == 0

    @property
    def seconds(self) -> float:
        """A prediction for one thread, to compare plans by."""
        return self.operations / _FLOPS_PER_SECOND + self.bytes / _BYTES_PER_SECOND


@dataclass(frozen=True)
class Plan:
    """The contraction of all blocks.

    Attributes:
        blocks: one plan each.
        queries, train: how many examples.
        capture_operations: predicted for the forward and backward passes over the training set.
        rtol: what a query's scores may be off by, relative to their norm.
        measured_error: root mean square of that over the queries it was measured on; 0 where every block is
            exact.
        worst_error: the largest of them.
        measured_on: `(queries, training examples)` of the measurement.
    """

    blocks: tuple[BlockPlan, ...]
    queries: int
    train: int
    capture_operations: float
    rtol: float
    measured_error: float = 0.0
    worst_error: float = 0.0
    measured_on: tuple[int, int] = (0, 0)

    @property
    def operations(self) -> float:
        """Predicted, all in all."""
        return self.capture_operations + sum(block.operations for block in self.blocks)

    @property
    def bytes(self) -> float:
        """Predicted memory traffic of the contraction."""
        return sum(block.bytes for block in self.blocks)

    @property
    def state_bytes(self) -> int:
        """Held per query."""
        return sum(block.state_bytes for block in self.blocks)

    @property
    def exact(self) -> bool:
        """Whether no block is approximated."""
        return all(block.exact for block in self.blocks)

    def measured(self, errors: Tensor, on: tuple[int, int]) -> Plan:
        """The same plan with its measured errors, one per query."""
        if not len(errors):
            return replace(self, measured_on=on)
        return replace(
            self,
            measured_error=float(errors.square().mean().sqrt()),
            worst_error=float(errors.max()),
            measured_on=on,
        )

    def explain(self) -> str:
        """The plan as a table of at most 80 columns."""
        lines = [
            f"{self.queries:,} queries x {self.train:,} training examples",
            f"predicted: {_short(self.operations)}flop, {_short(self.bytes)}B moved",
            f"{'block':<24} {'matrix':>11} {'pos.':>5} {'method':<10} {'rank':>9} {'flop':>7} {'bytes':>7}",
            f"{'(forward and backward)':<24} {'':>11} {'':>5} {'capture':<10} {'':>9} "
            f"{_short(self.capture_operations):>7}",
        ]
        for block in self.blocks:
            g, o, i = block.shape
            matrix = f"{o}x{i}" if g == 1 else f"{g}x{o}x{i}"
            rank = (
                f"{block.rank}+{block.entries}" if block.entries else (str(block.rank) if block.rank else "")
            )
            name = block.block if len(block.block) <= 24 else "…" + block.block[-23:]
            lines.append(
                f"{name:<24} {matrix:>11} {block.positions:>5} {block.method:<10} {rank:>9} "
                f"{_short(block.operations):>7} {_short(block.bytes):>7}"
            )
        if self.exact:
            lines.append("Exact up to rounding.")
        else:
            q, n = self.measured_on
            lines.append(
                f"Relative error of a query's scores by low rank: {self.measured_error:.1e} rms, "
                f"{self.worst_error:.1e} worst\n(measured on {q} queries x {n} training examples; asked for "
                f"{self.rtol:.0e})."
            )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, for reports and manifests."""
        blocks = []
        for block in self.blocks:
            entry = asdict(replace(block, expansion=None))
            entry.pop("expansion")
            blocks.append(entry)
        return {
            "queries": self.queries,
            "train": self.train,
            "operations": self.operations,
            "bytes": self.bytes,
            "capture_operations": self.capture_operations,
            "rtol": self.rtol,
            "measured_error": self.measured_error,
            "worst_error": self.worst_error,
            "measured_on": list(self.measured_on),
            "blocks": blocks,
        }


def _short(value: float) -> str:
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} Z"
