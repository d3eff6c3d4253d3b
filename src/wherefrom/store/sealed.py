"""JSON that carries a checksum of itself: what was damaged or edited is noticed, to the last bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# The name under which the checksum stands, in JSON and in the headers of tensors' files.
SEAL = "sha256"
UNSEALED = "it has no checksum: an earlier version of Wherefrom wrote it, or something else did"
BROKEN = "its content does not match its checksum: it was damaged, edited or cut short"


class SealError(ValueError):
    """Text that `seal` did not write, or not like this; the message says which."""


def seal(content: Mapping[str, Any], *, after: str = "") -> str:
    """One line of JSON with the SHA-256 of everything else in it.

    Args:
        content: JSON values; no name may be `"sha256"`.
        after: the checksum of what must stand before this text, where the order counts.
    """
    plain = json.dumps(content)
    return json.dumps({**content, SEAL: hashlib.sha256(f"{after}\n{plain}".encode()).hexdigest()})


def unseal(text: str | bytes, *, after: str = "") -> dict[str, Any]:
    """What `seal` was given; the checksum too, under `"sha256"`.

    Raises:
        SealError: no JSON, without a checksum, or not byte for byte what `seal` wrote.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SealError(f"it is not JSON: {error}") from error
    if not isinstance(found, dict) or SEAL not in found:
        raise SealError(UNSEALED)
    written = text.encode() if isinstance(text, str) else text
    if seal({key: value for key, value in found.items() if key != SEAL}, after=after).encode() != written:
        raise SealError(BROKEN)
    return found


def digest(content: Any) -> str:
    """SHA-256 of JSON values, whatever the order of their names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
