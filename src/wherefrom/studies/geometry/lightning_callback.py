"""The monitor as a callback of Lightning, which stays optional: the `lightning` extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from wherefrom.errors import UnsupportedError
from wherefrom.studies.geometry.monitor import Monitor


def lightning_monitor(
    train: Any,
    *,
    loss: Any,
    path: str | Path,
    module: Callable[[Any], nn.Module] | None = None,
    **settings: Any,
) -> Any:
    """A Lightning callback that calls `Monitor.step` after every optimiser step, on the first process only.

    Args:
        train, loss, path, **settings: as for `Monitor`, which is made when the training starts.
        module: picks the network of the LightningModule (`lambda whole: whole.net`); the LightningModule
            itself otherwise.

    Raises:
        UnsupportedError: neither `lightning` nor `pytorch_lightning` is installed.
    """
    base = _callback_class()

    class LightningMonitor(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.monitor: Monitor | None = None
            self._last = -1

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                chosen = pl_module if module is None else module(pl_module)
                self.monitor = Monitor(chosen, train, loss=loss, path=path, **settings)
                self._last = trainer.global_step
                self.monitor.step(trainer.global_step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
            # With accumulated gradients several batches belong to one step.
            if self.monitor is not None and trainer.global_step > self._last:
                self._last = trainer.global_step
                self.monitor.step(trainer.global_step)

    return LightningMonitor()


def _callback_class() -> type:
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise UnsupportedError(
                "lightning_monitor needs Lightning, which is not installed; expected lightning "
                "or pytorch_lightning. Run pip install 'wherefrom[lightning]', or call Monitor.step in "
                "your loop."
            ) from error
    return Callback
