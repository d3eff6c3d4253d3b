"""Tasks that need nothing but what is installed."""

from wherefrom.cli.demo.digits import digits_tasks

__all__ = ["digits_tasks"]
