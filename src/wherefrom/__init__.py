"""Wherefrom: where did this prediction come from?

`Influence` traces a trained model's predictions to its training examples, with an error beside each score,
and `verify` proves it by retraining.
"""

from wherefrom.api import Influence, from_sklearn
from wherefrom.evaluation import FullBatch, Verification
from wherefrom.evaluation import verify_removals as verify
from wherefrom.gradients.projections import Gaussian, LoGra, Rademacher, SparseJL
from wherefrom.influence import (
    Attributor,
    Measurement,
    MinimumCheck,
    Scores,
    SelfScores,
    load_scores,
    save_scores,
    trust_of,
)
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
from wherefrom.studies.labels import label_signals as labels
from wherefrom.studies.slices import group_influence as slices
from wherefrom.studies.slices import harmful_groups
from wherefrom.studies.study import Result, Study, option
from wherefrom.task import Objective
from wherefrom.version import VERSION

__version__ = VERSION
__all__ = [
    "CG",
    "EKFAC",
    "KFAC",
    "Arnoldi",
    "Astra",
    "Attributor",
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
    "Objective",
    "Outcome",
    "Projected",
    "Rademacher",
    "RelativeDamping",
    "Result",
    "Scores",
    "SelfScores",
    "SmoothHinge",
    "SparseJL",
    "SquaredError",
    "Study",
    "Verification",
    "__version__",
    "from_sklearn",
    "harmful_groups",
    "labels",
    "load_scores",
    "option",
    "save_scores",
    "slices",
    "trust_of",
    "verify",
]
