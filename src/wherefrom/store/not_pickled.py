"""Objects that cannot be written to a file or sent to another process, and say so."""

from __future__ import annotations

from typing import Any, NoReturn

from wherefrom.errors import UnsupportedError


class NotPickled:
    """Refuses `pickle`, `copy.deepcopy` and what is built on them (`joblib`, `torch.save`).

    It holds the model, functions of the user's and graphs of the computation: a copy would be of another
    model, or fail in the middle.
    """

    def __copy__(self) -> Any:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UnsupportedError(
            f"{type(self).__name__} cannot be pickled or deep-copied: it holds the model and functions of "
            "yours. Pass run_dir= to keep what took long and fit again from it in another process; keep "
            "results with wherefrom.save_scores(scores, path) and wherefrom.load_scores(path)."
        )
