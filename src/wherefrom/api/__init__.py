"""The classes and functions most users meet, and scikit-learn's models in Wherefrom's terms."""

from wherefrom.api.from_sklearn import from_sklearn
from wherefrom.api.influence import Influence
from wherefrom.api.sklearn_task import SklearnTask, as_examples, as_task, refit

__all__ = ["Influence", "SklearnTask", "as_examples", "as_task", "from_sklearn", "refit"]
