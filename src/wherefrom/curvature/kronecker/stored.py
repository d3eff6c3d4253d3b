"""Kronecker factors kept in a run directory, and resumed where a killed process left off."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.kronecker.basis import Basis, bases_fingerprint
from wherefrom.curvature.kronecker.curvature import KroneckerCurvature
from wherefrom.curvature.kronecker.files import read_bases, read_partial, write_bases, write_sums
from wherefrom.curvature.kronecker.gather import KroneckerGathering
from wherefrom.curvature.kronecker.moments import KroneckerMoments
from wherefrom.curvature.kronecker.options import KroneckerOptions
from wherefrom.curvature.kronecker.sums import EigenvalueSums, ExampleSums
from wherefrom.errors import InputError
from wherefrom.gradients import LayerGradients
from wherefrom.store import RunDirectory
from wherefrom.store.run_directory import FACTORS, check_run_directory

# Unfinished sums are written this often, and more rarely where writing takes more than a share of the time.
_EVERY_SECONDS = 60.0
_SHARE = 0.05


def gather_kronecker(
    operator: GaussNewtonOperator,
    layers: LayerGradients,
    options: KroneckerOptions,
    *,
    progress: bool = True,
    run_dir: str | Path | None = None,
) -> KroneckerCurvature:
    """The Kronecker approximation of a Gauss-Newton or Fisher matrix, gathered or found in `run_dir`.

    Args:
        operator, layers, options, progress: as for `KroneckerGathering`.
        run_dir: keeps it; see `KroneckerStore`.

    Raises:
        NonFiniteError: a gradient or an activation is NaN or infinite.
        StoreError: what `run_dir` holds belongs to another model, data set or option, or it cannot be read or
            written.
    """
    gathering = KroneckerGathering(operator, layers, options, progress=progress)
    if run_dir is not None:
        return KroneckerStore(run_dir, gathering).curvature()
    bases = gathering.bases(gathering.moments() if gathering.needs_moments else None)
    if not gathering.needs_eigenvalues:
        return gathering.curvature(bases, None)
    sums = EigenvalueSums.empty(gathering.blocks, "")
    gathering.extend(sums, gathering.all_examples, bases)
    return gathering.curvature(bases, sums)


class KroneckerStore:
    """The files of one Kronecker approximation in a run directory, in a folder
    `kronecker/<method>-<labels>-<sharing>` of their own: `manifest.json`, `moments.safetensors` until the
    bases are known, `bases.safetensors`, `eigenvalues.safetensors`. Each is there whole or not at all.

    Unfinished sums are written once a minute or so, with the examples that are in them and the batch size. A
    later fit goes on from there with that batch size, and ends with the same bits as one that was never
    stopped, as long as the memory budget is the same: batches follow from it (`memory="auto"` from what is
    free), and where they are cut, rounding differs. Of data that is read on demand and not kept in memory, 64
    examples spread over the set are compared.

    Args:
        run_dir: the run directory.
        gathering: what the files belong to.

    Raises:
        StoreError: the files belong to another model, data set or option (the message lists what differs), or
            cannot be read or written.
    """

    def __init__(self, run_dir: str | Path, gathering: KroneckerGathering):
        check_run_directory(run_dir)
        self.gathering = gathering
        self.folder = Path(run_dir) / FACTORS / gathering.name
        RunDirectory(self.folder, gathering.identity)

    def curvature(self) -> KroneckerCurvature:
        """From the files as far as they go; gathered, and kept, from there on."""
        gathering = self.gathering
        bases = self._bases()
        if not gathering.needs_eigenvalues:
            return gathering.curvature(bases, None)
        empty = EigenvalueSums.empty(gathering.blocks, bases_fingerprint(gathering.blocks, bases))
        sums = self._completed(empty, bases)
        assert isinstance(sums, EigenvalueSums)
        return gathering.curvature(bases, sums)

    def keep_bases(self, bases: Sequence[Basis]) -> None:
        """Keep the bases; the moments they were made of are no longer needed, and eigenvalue sums in other
        bases are worth nothing."""
        write_bases(self._file("bases"), self.gathering, bases)
        self._file("moments").unlink(missing_ok=True)
        self._file("eigenvalues").unlink(missing_ok=True)

    def keep(self, sums: ExampleSums) -> None:
        """Keep sums, merged from what several processes gathered, say: a later fit goes on from them.

        Raises:
            InputError: eigenvalue sums in other bases than those kept.
        """
        if isinstance(sums, EigenvalueSums):
            bases = self._bases()
            if sums.basis != bases_fingerprint(self.gathering.blocks, bases):
                raise InputError("sums: gathered in other bases than those kept; keep their bases first")
            write_sums(self._file("eigenvalues"), self.gathering, sums)
        else:
            write_sums(self._file("moments"), self.gathering, sums)

    def _bases(self) -> list[Basis]:
        gathering = self.gathering
        if not gathering.needs_moments:
            return gathering.bases(None)
        if self._file("bases").exists():
            return read_bases(self._file("bases"), gathering)
        moments = self._completed(KroneckerMoments.empty(gathering.blocks), None)
        assert isinstance(moments, KroneckerMoments)
        bases = gathering.bases(moments)
        self.keep_bases(bases)
        return bases

    def _completed(self, sums: ExampleSums, bases: Sequence[Basis] | None) -> ExampleSums:
        """The kept sums of this kind, or these; the examples that they lack are added and they are kept."""
        gathering = self.gathering
        size = gathering.batch_size()
        file = self._file("moments" if bases is None else "eigenvalues")
        if file.exists():
            found, before = read_partial(file, gathering, type(sums))
            # A process may have been killed between new bases and the removal of sums in others.
            if found.basis == sums.basis:
                sums = found
                size = min(size, before) if before else size
        missing = sums.covered.missing(range(gathering.n))
        if missing.pairs:
            keeper = _Keeper(file, gathering, sums, size)
            gathering.extend(sums, missing, bases, batch_size=size, after_batch=keeper.after_batch)
            keeper.write()
        return sums

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


class _Keeper:
    """Writes sums now and then."""

    def __init__(self, file: Path, gathering: KroneckerGathering, sums: ExampleSums, size: int):
        self._file, self._gathering, self._sums, self._size = file, gathering, sums, size
        self._pause = _EVERY_SECONDS
        self._last = time.monotonic()

    def after_batch(self) -> None:
        if time.monotonic() - self._last >= self._pause:
            self.write()

    def write(self) -> None:
        started = time.monotonic()
        write_sums(self._file, self._gathering, self._sums, batch_size=self._size)
        self._last = time.monotonic()
        self._pause = max(_EVERY_SECONDS, (self._last - started) / _SHARE)
