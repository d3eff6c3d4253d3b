"""Per-example losses and their curvature in the model's outputs."""

from whence.losses.base import Loss
from whence.losses.binary_cross_entropy import BinaryCrossEntropy
from whence.losses.cosine import Cosine
from whence.losses.cross_entropy import CrossEntropy
from whence.losses.custom import CustomLoss
from whence.losses.feature_distance import FeatureDistance
from whence.losses.logistic import Logistic
from whence.losses.resolve import resolve_loss
from whence.losses.smooth_hinge import SmoothHinge
from whence.losses.squared_error import SquaredError

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
