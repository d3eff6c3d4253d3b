"""Files that outlive a process."""

from whence.store.run_directory import RunDirectory

__all__ = ["RunDirectory"]
