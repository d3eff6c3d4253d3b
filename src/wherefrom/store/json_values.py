"""Python values as JSON that every reader accepts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_values(value: Any) -> Any:
    """The same value with NaN and infinity, which JSON does not know, as `None`."""
    if isinstance(value, Mapping):
        return {str(key): json_values(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text; what is no JSON value is written as its text."""
    return json.dumps(json_values(value), indent=indent, default=str, allow_nan=False)
