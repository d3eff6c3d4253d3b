"""Real retraining on an edited training set: by the user's recipe, or of a convex head to its optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wherefrom.evaluation import Recipe, Retraining, check_architecture
from wherefrom.influence.measurements import Measurement
from wherefrom.losses import Loss
from wherefrom.studies.attack.head import EditedHead
from wherefrom.studies.attack.head_attack import TOLERANCE, HeadAttack
from wherefrom.studies.attack.newton import has_optimum, refit
from wherefrom.studies.attack.predictions import classes_of
from wherefrom.task import Objective

Classes = Int[Tensor, " m"]


@dataclass
class Retrainings:
    """Predicted classes before and after, for each seed whose two runs converged.

    Attributes:
        seeds: those.
        before, after: one tensor per seed.
        failed: reasons of the others.
    """

    seeds: list[int] = field(default_factory=list)
    before: list[Classes] = field(default_factory=list)
    after: list[Classes] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


def train_anew(objective: Objective, recipe: Recipe, train: Any, seed: int) -> nn.Module:
    """The recipe's model, checked.

    Raises:
        InputError: it returns something other than a model of the same architecture.
        ConvergenceError: raised by the recipe.
    """
    model = recipe(train, seed)
    check_architecture(objective.model, model)
    return model


def retrain_by_recipe(
    retraining: Retraining,
    train: Any,
    edited: Any,
    seeds: Sequence[int],
    *,
    name: str,
    advance: Callable[[], None] = lambda: None,
) -> Retrainings:
    """Train on both training sets with each seed, and predict with both models.

    Args:
        retraining: of `predicted_class` on the examples that are predicted.
        train, edited: the training sets, in the form the recipe takes.
        seeds: of the recipe.
        name: of the edits, under which a finished retraining is kept.
        advance: called after each training.
    """
    done = Retrainings()
    for seed in seeds:
        before = retraining.measured("all", lambda: train, seed)
        advance()
        after = retraining.measured(name, lambda: edited, seed)
        advance()
        failed = next((found for found in (before, after) if isinstance(found, str)), None)
        if failed is not None:
            done.failed[seed] = failed
            continue
        done.seeds.append(seed)
        done.before.append(torch.as_tensor(before).long())
        done.after.append(torch.as_tensor(after).long())
    return done


def predicted_class(loss: Loss) -> Measurement:
    """The predicted class as a measurement: a number to be read off, not to be differentiated."""
    return Measurement("predicted class", lambda outputs, _: classes_of(loss, outputs).to(outputs.dtype))


def retrain_head(attack: HeadAttack, index: Int[Tensor, " k"], stored: Float[Tensor, " k *x"]) -> Retrainings:
    """The head's optimum on the edited training set, by Newton's method from zero: nothing of the attack's
    own refits is used."""
    problem = attack.problem
    features = attack.reader(index, stored.detach())
    edited = EditedHead(index[None], features[None])
    fit = refit(problem, torch.zeros_like(problem.start)[None], edited, tolerance=TOLERANCE)
    done = Retrainings()
    if bool(fit.converged[0] & has_optimum(problem, fit.heads, edited)[0]):
        done.seeds.append(0)
        done.before.append(attack.predict(attack.baseline[None])[0])
        done.after.append(attack.predict(fit.heads)[0])
    else:
        done.failed[0] = (
            f"no optimum of the head was found in {fit.steps} Newton steps (gradient left over: "
            f"{float(fit.distance[0]):.3g} times what removing one example changes)"
        )
    return done
