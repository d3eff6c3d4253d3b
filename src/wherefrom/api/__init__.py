"""The classes and functions most users meet."""

from wherefrom.api.from_sklearn import from_sklearn
from wherefrom.api.influence import Influence

__all__ = ["Influence", "from_sklearn"]
