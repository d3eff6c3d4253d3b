"""Files that outlive a process."""

from whence.store.files import write_atomically
from whence.store.run_directory import RunDirectory

__all__ = ["RunDirectory", "write_atomically"]
