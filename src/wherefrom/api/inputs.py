"""What `Influence` says of the inputs of training examples: which change would matter, and who could exploit
it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from wherefrom.api.held import Held
from wherefrom.attack import AttackResult, Budget, PoisoningAudit, audit_poisoning, run_attack
from wherefrom.evaluation import Recipe
from wherefrom.influence import (
    InputInfluence,
    Measurement,
    TokenReplacements,
    input_influence,
    token_replacements,
)


class Inputs(Held):
    """Influence with respect to inputs, and attacks that edit them."""

    def input_influence(
        self,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
        *,
        examples: Sequence[int] | Tensor | None = None,
        mean: bool = True,
        input: int | str | None = None,
        embedding: nn.Module | str | None = None,
        batch_size: int = 64,
    ) -> InputInfluence:
        """What a small change of the input of a training example does to the queries; see
        `wherefrom.influence.input_influence`."""
        return input_influence(
            self.fitted,
            queries,
            measurement,
            examples=examples,
            mean=mean,
            input=input,
            embedding=embedding,
            batch_size=batch_size,
        )

    def token_replacements(
        self,
        example: int,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
        *,
        embedding: nn.Embedding | str,
        direction: Literal["raise", "lower", "either"] = "either",
        top: int = 20,
        **options: Any,
    ) -> TokenReplacements:
        """Which replacement of one token of a training example would change the queries most; see
        `wherefrom.influence.token_replacements`, which has the further `options`."""
        return token_replacements(
            self.fitted,
            example,
            queries,
            measurement,
            embedding=embedding,
            direction=direction,
            top=top,
            **options,
        )

    def attack(
        self,
        queries: Any,
        *,
        budget: Budget | float | int,
        edits: int = 1,
        controls: Any = None,
        recipe: Recipe | None = None,
        seeds: Sequence[int] = (0,),
        **options: Any,
    ) -> AttackResult:
        """Edit few training examples imperceptibly so that retraining flips the queries, and retrain; see
        `wherefrom.attack.run_attack`, which has the further `options`."""
        return run_attack(
            self.fitted,
            self.train,
            queries,
            budget=budget,
            edits=edits,
            controls=controls,
            recipe=recipe,
            seeds=seeds,
            # Apart from the other retrainings, which measure something else.
            run_dir=None if self._run_dir is None else self._run_dir / "attack",
            **options,
        )

    def poisoning(
        self,
        queries: Any,
        *,
        budget: Budget | float | int,
        edits: Sequence[int] = (1, 2, 10),
        **options: Any,
    ) -> PoisoningAudit:
        """What share of the queries so many edited training examples flip, each attacked by itself; see
        `wherefrom.attack.audit_poisoning`, which has the further `options`."""
        return audit_poisoning(self.fitted, queries, budget=budget, edits=edits, **options)
