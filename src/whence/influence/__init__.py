"""Influence of training examples: scores with errors, self-influence, parameters, and whether `θ̂` is a
minimum."""

from whence.influence.compute import (
    compute_scores,
    compute_self_scores,
    explain_scores,
    parameter_influence,
)
from whence.influence.fitted import FitOptions, FittedInfluence
from whence.influence.head_scores import head_influence, head_scores
from whence.influence.input_influence import InputInfluence, input_influence
from whence.influence.layerwise import layer_coverage
from whence.influence.leave_one_out import LeaveOneOut, leave_one_out, output_spread
from whence.influence.measurements import Measurement, resolve_measurement
from whence.influence.minimum import MinimumCheck
from whence.influence.parts import score_parts
from whence.influence.resolution import ANY, RESOLVED, Range, Resolution, resolve_change
from whence.influence.scores import Scores, check_indices
from whence.influence.scores_file import load_scores, save_scores
from whence.influence.self_scores import SelfScores
from whence.influence.tables import Ranking
from whence.influence.token_replacements import TokenReplacements, token_replacements
from whence.influence.trust import Trust, trust_of, trust_without_fit, worst

__all__ = [
    "ANY",
    "RESOLVED",
    "FitOptions",
    "FittedInfluence",
    "InputInfluence",
    "LeaveOneOut",
    "Measurement",
    "MinimumCheck",
    "Range",
    "Ranking",
    "Resolution",
    "Scores",
    "SelfScores",
    "TokenReplacements",
    "Trust",
    "check_indices",
    "compute_scores",
    "compute_self_scores",
    "explain_scores",
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
    "worst",
]
