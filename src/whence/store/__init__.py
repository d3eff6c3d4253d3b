"""Files that outlive a process."""

from whence.store.files import write_atomically
from whence.store.fingerprint import fingerprint
from whence.store.json_values import dump_json, json_values
from whence.store.leftovers import remove_leftovers
from whence.store.run_directory import RunDirectory, check_run_directory
from whence.store.tensors import read_tensors, write_tensors

__all__ = [
    "RunDirectory",
    "check_run_directory",
    "dump_json",
    "fingerprint",
    "json_values",
    "read_tensors",
    "remove_leftovers",
    "write_atomically",
    "write_tensors",
]
