"""What was found out about clusters of training examples and their harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from wherefrom.arguments import whole
from wherefrom.influence import RESOLVED, Resolution
from wherefrom.influence.tables import error_text, frame_of

if TYPE_CHECKING:
    import pandas

_SHOWN = 5


@dataclass(frozen=True)
class HarmfulCluster:
    """Training examples that act alike, and what removing them all is predicted to do.

    Attributes:
        members: training indices, the single most harmful first.
        harm: how much better the validation set would fare without the cluster; negative: worse.
        change: the same as a change of the mean measurement, with its sign.
        error: the solver's error expected in it; infinite where it was not measured.
        bound: what that error cannot exceed; infinite where nothing is known.
        standard_error: of the change, from the spread over the validation examples: another validation set
            would give another number. Infinite for a single one.
        share_of_harm: of all harm that single training examples do, the share done by members.
        labels: how many members have which label, the most frequent first; `None` without classes.
        changes: predicted change of each validation example's measurement, `(v,)`.
        harm_by_label: the share of the harm that falls on the validation examples of each label, the largest
            first; `None` without classes.
        resolution: whether the change stands out of all its errors: the solver's, twice the standard error,
            and what first order cannot predict.
    """

    members: Int[np.ndarray, " size"]
    harm: float
    change: float
    error: float
    bound: float
    standard_error: float
    share_of_harm: float
    labels: dict[str, int] | None
    changes: Float[np.ndarray, " v"]
    harm_by_label: dict[str, float] | None
    resolution: Resolution = RESOLVED

    def __len__(self) -> int:
        return len(self.members)

    @property
    def certain(self) -> bool:
        """Whether it harms by more than all errors of its change, see `resolution`."""
        return self.harm > 0 and self.resolution.resolved

    def hurts(self, k: int = 10) -> list[int]:
        """The `k` validation examples that are predicted to gain most without the cluster."""
        gain = self.changes if self.harm * self.change > 0 else -self.changes
        order = np.argsort(-gain, kind="stable")[: whole("k", k, 1)]
        return [int(i) for i in order if gain[i] > 0]


@dataclass(frozen=True)
class HarmfulGroups:
    """All training examples in clusters, the most harmful cluster first.

    Attributes:
        clusters: of all training examples.
        harm: of single training examples to the mean measurement, `(n,)`; negative: they help.
        measured: mean measurement over the validation set now.
        converged: whether the solver did; `reason` if not.
        measurement, higher_is_better: what was measured.
        settings: everything that defines the numbers, as JSON values.
    """

    clusters: tuple[HarmfulCluster, ...]
    harm: Float[np.ndarray, " n"]
    measured: float
    converged: bool
    reason: str
    measurement: str
    higher_is_better: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clusters)

    def __getitem__(self, rank: int) -> HarmfulCluster:
        return self.clusters[rank]

    @property
    def n_train(self) -> int:
        return len(self.harm)

    @property
    def harmful(self) -> tuple[HarmfulCluster, ...]:
        """The clusters that harm by more than all errors."""
        return tuple(cluster for cluster in self.clusters if cluster.certain)

    @property
    def assignment(self) -> Int[np.ndarray, " n"]:
        """The rank of each training example's cluster."""
        made = np.empty(self.n_train, dtype=np.int64)
        for rank, cluster in enumerate(self.clusters):
            made[cluster.members] = rank
        return made

    def __iter__(self) -> Iterator[HarmfulCluster]:
        return iter(self.clusters)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per cluster; `rank` counts from 1."""
        for rank, cluster in enumerate(self.clusters, 1):
            yield {
                "rank": rank,
                "size": len(cluster),
                "change": cluster.change,
                "error": cluster.error,
                "bound": cluster.bound,
                "standard_error": cluster.standard_error,
                "certain": cluster.certain,
                "reason": cluster.resolution.reason,
                "share_of_harm": cluster.share_of_harm,
                "labels": label_words(cluster.labels),
                "harm_by_label": share_words(cluster.harm_by_label),
            }

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame; errors that are not known are missing."""
        return frame_of(self.rows())

    def __repr__(self) -> str:
        state = "" if self.converged else ", NOT converged"
        lines = [
            f"HarmfulGroups({len(self)} clusters of {self.n_train} training examples, "
            f"{self.measurement} {self.measured:.4g}{state})",
            f"{'size':>6} {'change':>11} {'± sample':>9} {'share of harm':>14}  labels",
        ]
        for cluster in self.clusters[:_SHOWN]:
            spread = error_text(cluster.standard_error)
            lines.append(
                f"{len(cluster):>6} {cluster.change:>+11.3e} {spread:>9} {cluster.share_of_harm:>14.0%}  "
                f"{label_words(cluster.labels)}"
            )
        if len(self) > _SHOWN:
            lines.append(f"and {len(self) - _SHOWN} clusters that harm less, or help")
        return "\n".join(lines)


def label_words(labels: dict[str, int] | None, most: int = 3) -> str:
    """`"8: 29, 3: 1"`: labels with their counts."""
    return _listed({name: str(count) for name, count in (labels or {}).items()}, most)


def share_words(shares: dict[str, float] | None, most: int = 3) -> str:
    """`"3: 92 %, 5: 4 %"`: labels with their shares."""
    return _listed({name: f"{100 * share:.0f} %" for name, share in (shares or {}).items()}, most)


def _listed(words: dict[str, str], most: int) -> str:
    shown = ", ".join(f"{name}: {value}" for name, value in list(words.items())[:most])
    return shown if len(words) <= most else f"{shown}, …"
