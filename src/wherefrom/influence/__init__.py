"""Influence of training examples: scores with errors, self-influence, parameters, and whether `θ̂` is a
minimum."""

from wherefrom.influence.as_fit import as_fit
from wherefrom.influence.attributor import Attributor, Estimand, Measured, estimand_words
from wherefrom.influence.compute import (
    compute_scores,
    compute_self_scores,
    explain_scores,
    layer_coverage,
    parameter_influence,
)
from wherefrom.influence.fit import Fit
from wherefrom.influence.fit_options import FitOptions
from wherefrom.influence.head_scores import head_influence, head_scores
from wherefrom.influence.input_influence import InputInfluence, input_influence
from wherefrom.influence.leave_one_out import LeaveOneOut, has_closed_form, leave_one_out, output_spread
from wherefrom.influence.measurements import Measurement, resolve_measurement
from wherefrom.influence.minimum import MinimumCheck
from wherefrom.influence.parts import score_parts
from wherefrom.influence.resolution import ANY, RESOLVED, Range, Resolution, resolve_change, unresolved
from wherefrom.influence.scores import Scores, check_indices
from wherefrom.influence.scores_file import load_scores, save_scores
from wherefrom.influence.self_scores import SelfScores
from wherefrom.influence.tables import Ranking
from wherefrom.influence.token_replacements import TokenReplacements, token_replacements
from wherefrom.influence.trust import Trust, trust_of, trust_without_fit, worst

__all__ = [
    "ANY",
    "RESOLVED",
    "Attributor",
    "Estimand",
    "Fit",
    "FitOptions",
    "InputInfluence",
    "LeaveOneOut",
    "Measured",
    "Measurement",
    "MinimumCheck",
    "Range",
    "Ranking",
    "Resolution",
    "Scores",
    "SelfScores",
    "TokenReplacements",
    "Trust",
    "as_fit",
    "check_indices",
    "compute_scores",
    "compute_self_scores",
    "estimand_words",
    "explain_scores",
    "has_closed_form",
    "head_influence",
    "head_scores",
    "input_influence",
    "layer_coverage",
    "leave_one_out",
    "load_scores",
    "output_spread",
    "parameter_influence",
    "resolve_change",
    "resolve_measurement",
    "save_scores",
    "score_parts",
    "token_replacements",
    "trust_of",
    "trust_without_fit",
    "unresolved",
    "worst",
]
