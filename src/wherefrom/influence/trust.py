"""How far the answers of one fit may be trusted: computed once, and said at the head of all that is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wherefrom.influence.attributor import Attributor

Level = Literal["good", "fair", "poor"]
Verdict = Literal["yes", "ranking only", "no", "cannot tell"]

_ORDER: tuple[Level, ...] = ("good", "fair", "poor")
_MINIMUM: dict[str, tuple[Level, str]] = {
    "minimum": ("good", "the model is at a minimum of its objective"),
    "near": ("fair", "the model is near a minimum of its objective, and not at it"),
    "not a minimum": ("poor", "the model is not at a minimum of its objective"),
    "not checked": ("fair", "whether the model is at a minimum was not checked"),
}
# What a check by retraining found: the level it allows at best, the verdict, the words.
_RETRAINED: dict[str, tuple[Level | None, Verdict, str]] = {
    "yes": (None, "yes", "retraining agrees"),
    "roughly": (None, "yes", "retraining agrees roughly"),
    "ranking only": ("fair", "ranking only", "retraining agrees with the order, not with sizes"),
    "no": ("poor", "no", "retraining does not agree"),
    "cannot tell": (None, "cannot tell", "retraining cannot tell"),
}
# What may be read off the numbers where retraining has not decided it.
_SO: dict[Level, str] = {
    "good": "Signs and sizes are those of a small change of the data",
    "fair": "Take signs as likely and sizes as rough",
    "poor": "Neither signs nor sizes are established: take what is found as candidates",
}
_ORDER_ONLY = "The scores are an order of likeness, without a size"
_NEXT = "whether retraining agrees, only retraining tells."
_ELSE = "whether retraining agrees with the rest, only retraining tells."
_STANDS = "What was retrained here stands by itself."
_UNDECIDED = "the retraining that was done does not decide it."
# And where it has.
_SETTLED: dict[Verdict, str] = {
    "yes": "So far as it was retrained, it holds.",
    "ranking only": "So far as it was retrained, the order holds, at least in tendency; sizes are not "
    "confirmed.",
    "no": "Neither signs nor sizes are established: take what is found as candidates, and retrain to know.",
}
_NOT_CONVERGED = (
    "Solve better first: more iterations, a larger damping, or solver=Exact() where it fits. Then retrain."
)
_ADVICE: dict[Verdict, str] = {
    "yes": "Use order and sizes for changes like those that were retrained; retrain again for larger ones.",
    "ranking only": "Use the order. For sizes, retrain without the examples that matter.",
    "no": "Do not act on these numbers: retrain to see what a change does, or try another solver or damping.",
    "cannot tell": "Measure it: run wherefrom audit with a recipe in the task file, which retrains without "
    "the examples that matter most.",
}
_TONE: dict[Verdict, Literal["good", "fair", "poor", "none"]] = {
    "yes": "good",
    "ranking only": "fair",
    "no": "poor",
    "cannot tell": "none",
}
_NOISY = (
    "The retraining did not decide: give more seeds, more removals, a recipe that trains longer, or look at "
    "larger groups of examples."
)


@dataclass(frozen=True)
class Trust:
    """What the answers of a fit can be trusted for.

    Attributes:
        level: `"good"`, `"fair"` or `"poor"`: the worst of what follows.
        minimum: `"minimum"`, `"near"`, `"not a minimum"` or `"not checked"`.
        approximate: what the method leaves out of the curvature, in plain words; empty if nothing. That is
            not the distance to retraining.
        converged: whether every solve behind the numbers did.
        retraining: what a check by retraining found, where one was made for this fit: `"yes"`,
            `"ranking only"`, `"no"`, …
        words: all of it in two sentences.
        verdict: may the numbers be trusted? `"yes"`, `"ranking only"`, `"no"` or `"cannot tell"`.
        advice: what to do.
        retrained: what else was retrained, in words; empty if nothing.
    """

    level: Level
    minimum: str
    approximate: str
    converged: bool
    retraining: str | None
    words: str
    verdict: Verdict
    advice: str
    retrained: str = ""

    @property
    def tone(self) -> Literal["good", "fair", "poor", "none"]:
        """Of the verdict, for its colour."""
        return _TONE[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def trust_of(
    attributor: Attributor,
    *,
    converged: bool = True,
    retraining: str | None = None,
    retrained: str = "",
) -> Trust:
    """From the check of the minimum, the solver, and retraining where it was done.

    Args:
        attributor: whose numbers they are.
        converged: whether the solves behind the numbers shown did.
        retraining: the verdict of a check that belongs to them.
        retrained: what was retrained without such a verdict, in words.
    """
    sized = attributor.estimand != "similarity"
    if not sized and retraining in ("yes", "roughly"):
        retraining = "ranking only"
    checked = "not checked" if attributor.minimum is None else attributor.minimum.verdict
    level, said = _MINIMUM[checked]
    found = [said]
    if attributor.approximation:
        found.append(attributor.approximation)
        level = worst(level, attributor.limit)
    if not converged:
        found.append("the solver did not converge")
    verdict: Verdict = "cannot tell"
    advice, settled = _ADVICE["cannot tell"], None
    if retrained:
        found.append(retrained)
    if retraining is not None:
        limit, verdict, said = _RETRAINED[retraining]
        found.append(said)
        level = level if limit is None else worst(level, limit)
        if verdict == "yes":
            level = "good" if retraining == "yes" else "fair"
        advice, settled = (_NOISY if verdict == "cannot tell" else _ADVICE[verdict]), _SETTLED.get(verdict)
    elif not retrained:
        found.append("nothing was retrained here")
    if not converged:
        level = "poor"
        if verdict != "no":
            verdict, advice, settled = "cannot tell", _NOT_CONVERGED, None
    rest = _UNDECIDED if retraining is not None else _ELSE if retrained else _NEXT
    so = settled or f"{_so(level, sized)}; {rest}"
    if retrained and verdict != "yes":
        so += f" {_STANDS}"
    words = f"How far to trust this: {', '.join(found[:-1])}, and {found[-1]}. {so}"
    return Trust(
        level, checked, attributor.approximation, converged, retraining, words, verdict, advice, retrained
    )


def _so(level: Level, sized: bool) -> str:
    return _SO[level] if sized or level == "poor" else _ORDER_ONLY


def trust_without_fit() -> Trust:
    """Of what is read off the model as it is."""
    return Trust(
        "fair",
        "not checked",
        "",
        True,
        None,
        "How far to trust this: it describes the model as it is. Whether the model is at a minimum was not "
        "checked and nothing was retrained, so it says nothing of what a change of the data would do.",
        "cannot tell",
        "Take it as a description. For what a change of the data would do, run wherefrom audit.",
    )


def worst(*levels: Level) -> Level:
    """The lowest of several."""
    return max(levels, key=_ORDER.index)
