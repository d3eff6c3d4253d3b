"""Wherefrom: where did this prediction come from?

`Influence` traces a trained model's predictions to its training examples, with an error beside each score,
and `verify` proves it by retraining.
"""

from wherefrom.api import Influence, from_sklearn
from wherefrom.evaluation import FullBatch, Verification
from wherefrom.gradients.projections import Gaussian, LoGra, Rademacher, SparseJL
from wherefrom.influence import Measurement, MinimumCheck, Scores, SelfScores, load_scores, save_scores
from wherefrom.interventions import Change, Intervention, Outcome
from wherefrom.losses import (
    BinaryCrossEntropy,
    Cosine,
    CrossEntropy,
    CustomLoss,
    FeatureDistance,
    Logistic,
    Loss,
    SmoothHinge,
    SquaredError,
)
from wherefrom.solvers import (
    CG,
    EKFAC,
    KFAC,
    Arnoldi,
    Astra,
    BlockDiagonal,
    DataInf,
    Diagonal,
    Exact,
    Identity,
    LiSSA,
    Nystrom,
    Projected,
    RelativeDamping,
)
from wherefrom.studies.attack import Budget

__version__ = "0.1.0"
__all__ = [
    "CG",
    "EKFAC",
    "KFAC",
    "Arnoldi",
    "Astra",
    "BinaryCrossEntropy",
    "BlockDiagonal",
    "Budget",
    "Change",
    "Cosine",
    "CrossEntropy",
    "CustomLoss",
    "DataInf",
    "Diagonal",
    "Exact",
    "FeatureDistance",
    "FullBatch",
    "Gaussian",
    "Identity",
    "Influence",
    "Intervention",
    "LiSSA",
    "LoGra",
    "Logistic",
    "Loss",
    "Measurement",
    "MinimumCheck",
    "Nystrom",
    "Outcome",
    "Projected",
    "Rademacher",
    "RelativeDamping",
    "Scores",
    "SelfScores",
    "SmoothHinge",
    "SparseJL",
    "SquaredError",
    "Verification",
    "__version__",
    "from_sklearn",
    "load_scores",
    "save_scores",
]
