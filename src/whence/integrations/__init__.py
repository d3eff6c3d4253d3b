"""Models of other libraries in Whence's terms."""

from whence.integrations.sklearn import SklearnTask, as_examples, as_task, refit

__all__ = ["SklearnTask", "as_examples", "as_task", "refit"]
