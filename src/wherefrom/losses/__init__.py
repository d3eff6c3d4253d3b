"""Per-example losses and their curvature in the model's outputs."""

from wherefrom.losses.base import Loss
from wherefrom.losses.binary_cross_entropy import BinaryCrossEntropy
from wherefrom.losses.cosine import Cosine
from wherefrom.losses.cross_entropy import CrossEntropy
from wherefrom.losses.custom import CustomLoss
from wherefrom.losses.feature_distance import FeatureDistance
from wherefrom.losses.logistic import Logistic
from wherefrom.losses.resolve import resolve_loss
from wherefrom.losses.smooth_hinge import SmoothHinge
from wherefrom.losses.squared_error import SquaredError

__all__ = [
    "BinaryCrossEntropy",
    "Cosine",
    "CrossEntropy",
    "CustomLoss",
    "FeatureDistance",
    "Logistic",
    "Loss",
    "SmoothHinge",
    "SquaredError",
    "resolve_loss",
]
