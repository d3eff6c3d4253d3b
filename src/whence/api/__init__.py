"""The classes and functions most users meet."""

from whence.api.from_sklearn import from_sklearn
from whence.api.influence import Influence

__all__ = ["Influence", "from_sklearn"]
