"""Sums and bases in files that say what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wherefrom.curvature.kronecker.basis import Basis, bases_of, basis_tensors
from wherefrom.curvature.kronecker.gather import KroneckerGathering
from wherefrom.curvature.kronecker.moments import KroneckerMoments
from wherefrom.curvature.kronecker.ranges import Ranges
from wherefrom.curvature.kronecker.sums import EigenvalueSums, ExampleSums
from wherefrom.errors import StoreError
from wherefrom.store import read_tensors, write_tensors

_KINDS: dict[str, type[ExampleSums]] = {"moments": KroneckerMoments, "eigenvalues": EigenvalueSums}


def write_sums(
    path: str | Path, gathering: KroneckerGathering, sums: ExampleSums, *, batch_size: int | None = None
) -> None:
    """Write moments or eigenvalue sums, finished or not; all or nothing.

    Raises:
        StoreError: the file cannot be written; what was there before is still there.
    """
    kind = "eigenvalues" if isinstance(sums, EigenvalueSums) else "moments"
    words = {"covered": sums.covered.as_text(), "basis": sums.basis, "batch_size": str(batch_size or 0)}
    write_tensors(path, sums.sums, {**_words(kind, gathering), **words})


def read_sums(path: str | Path, gathering: KroneckerGathering) -> ExampleSums:
    """What `write_sums` wrote, in this process or another: `KroneckerMoments` or `EigenvalueSums`.

    Raises:
        StoreError: the file belongs to another model, data set or option, or cannot be read.
    """
    return read_partial(path, gathering)[0]


def read_partial(
    path: str | Path, gathering: KroneckerGathering, kind: type[ExampleSums] | None = None
) -> tuple[ExampleSums, int]:
    """Sums, of one kind or of any, and the batch size they were being gathered with (0 if that was not
    written).

    Raises:
        StoreError: as for `read_sums`, or sums of another kind.
    """
    tensors, words = _read(
        path, gathering, tuple(name for name, made in _KINDS.items() if kind in (None, made))
    )
    try:
        covered, size = Ranges.from_text(words["covered"]), int(words["batch_size"])
    except (KeyError, ValueError) as error:
        raise _unreadable(path, f"its header is damaged: {error}") from error
    blocks = gathering.blocks
    if words["kind"] == "moments":
        expected: ExampleSums = KroneckerMoments.empty(blocks)
    else:
        expected = EigenvalueSums.empty(blocks, "")
    _check(path, tensors, {name: (*total.shape,) for name, total in expected.sums.items()}, torch.float64)
    if covered.missing(range(gathering.n)).joined(covered) != Ranges([(0, gathering.n)]):
        raise _unreadable(path, f"it covers examples outside 0..{gathering.n - 1}")
    return type(expected)({name: tensors[name] for name in expected.sums}, covered, words["basis"]), size


def write_bases(path: str | Path, gathering: KroneckerGathering, bases: Sequence[Basis]) -> None:
    """Write the bases that all processes are to gather eigenvalues in; all or nothing.

    Raises:
        StoreError: the file cannot be written; what was there before is still there.
    """
    write_tensors(path, basis_tensors(gathering.blocks, bases), _words("bases", gathering))


def read_bases(path: str | Path, gathering: KroneckerGathering) -> list[Basis]:
    """What `write_bases` wrote.

    Raises:
        StoreError: the file belongs to another model, data set or option, or cannot be read.
    """
    tensors, _ = _read(path, gathering, ("bases",))
    shapes = {}
    for block in gathering.blocks:
        g, o, i = block.shape
        sides = {"left": (g, o, o), "right": (g, i, i), "left_values": (g, o), "right_values": (g, i)}
        for side, shape in sides.items():
            # Without vectors, that factor's basis is the identity.
            if side.endswith("values") or f"{block.name}:{side}" in tensors:
                shapes[f"{block.name}:{side}"] = shape
    _check(path, tensors, shapes, gathering.layers.objective.dtype)
    return bases_of(gathering.blocks, tensors)


def _words(kind: str, gathering: KroneckerGathering) -> dict[str, str]:
    identity = json.dumps(gathering.identity, sort_keys=True)
    return {"kind": kind, "identity": identity, "torch": torch.__version__}


def _read(
    path: str | Path, gathering: KroneckerGathering, kinds: tuple[str, ...]
) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    tensors, words = read_tensors(path, gathering.layers.objective.device)
    if words.get("kind") not in kinds:
        raise _unreadable(path, f"it holds {words.get('kind')!r}, expected {' or '.join(kinds)}")
    try:
        found = json.loads(words["identity"])
    except (KeyError, ValueError) as error:
        raise _unreadable(path, f"its header is damaged: {error}") from error
    wanted = json.loads(json.dumps(gathering.identity))
    differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
    if differing:
        raise StoreError(
            f"{path} belongs to another gathering: {', '.join(differing)} differ"
            f"{'s' if len(differing) == 1 else ''}. Every process must have the same model, data and options."
        )
    return tensors, words


def _check(
    path: str | Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> None:
    """Refuse other tensors than those of every block, and such that are not finite.

    Raises:
        StoreError: naming one.
    """
    odd = sorted({*shapes} ^ {*tensors})
    if odd:
        raise _unreadable(path, f"it does not hold what every block has: {odd[0]!r}")
    for name, shape in shapes.items():
        found = tensors[name]
        if tuple(found.shape) != shape or found.dtype != dtype:
            raise _unreadable(
                path, f"{name!r} is {tuple(found.shape)} of {found.dtype}, expected {shape} of {dtype}"
            )
        if not bool(torch.isfinite(found).all()):
            raise _unreadable(path, f"{name!r} holds NaN or infinity")


def _unreadable(path: str | Path, why: str) -> StoreError:
    return StoreError(f"{path} cannot be used ({why}). Delete it to compute its content again.")
