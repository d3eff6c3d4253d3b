"""Models of other libraries in Wherefrom's terms."""

from wherefrom.integrations.sklearn import SklearnTask, as_examples, as_task, refit

__all__ = ["SklearnTask", "as_examples", "as_task", "refit"]
