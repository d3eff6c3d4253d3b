"""What `Influence` finds in the training data: wrong labels, groups that do harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from wherefrom.api.held import Held
from wherefrom.influence import Measurement, SelfScores
from wherefrom.labels import LabelAudit, RelabelScores, label_signals, relabel_scores
from wherefrom.slices import GroupInfluence, HarmfulGroups, group_influence, harmful_groups


class Findings(Held):
    """Where the trouble in the training data is."""

    def slices(
        self,
        queries: Any,
        train_groups: Any,
        query_groups: Any = None,
        *,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    ) -> GroupInfluence:
        """What each group of training examples does to each group of queries, and which examples carry it;
        see `wherefrom.slices.group_influence`."""
        return group_influence(self.fitted, queries, train_groups, query_groups, measurement=measurement)

    def harmful_groups(
        self,
        validation: Any,
        *,
        clusters: int | Literal["auto"] = "auto",
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
        seed: int = 0,
    ) -> HarmfulGroups:
        """Clusters of training examples that hurt a validation set together, the worst first; see
        `wherefrom.slices.harmful_groups`."""
        return harmful_groups(self.fitted, validation, clusters=clusters, measurement=measurement, seed=seed)

    def labels(
        self,
        validation: Any = None,
        *,
        indices: Sequence[int] | Tensor | None = None,
        self_scores: SelfScores | None = None,
        left_out: Literal["gradient", "exact"] = "gradient",
        class_names: Sequence[str] | None = None,
    ) -> LabelAudit:
        """Which training labels look wrong, by several signs, how many are, and what they might be; see
        `wherefrom.labels.label_signals`."""
        return label_signals(
            self.fitted,
            validation,
            indices=indices,
            self_scores=self_scores,
            left_out=left_out,
            class_names=class_names,
        )

    def relabel_scores(
        self,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    ) -> RelabelScores:
        """What giving any training example any other label would do to each query; see
        `wherefrom.labels.relabel_scores`."""
        return relabel_scores(self.fitted, queries, measurement)
