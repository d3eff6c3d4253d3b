"""Files that outlive a process."""

from wherefrom.store.files import write_atomically
from wherefrom.store.fingerprint import fingerprint
from wherefrom.store.json_values import dump_json, json_values
from wherefrom.store.leftovers import remove_leftovers
from wherefrom.store.objects import read_object, write_object
from wherefrom.store.run_directory import RunDirectory, check_run_directory
from wherefrom.store.tensors import read_tensors, write_tensors

__all__ = [
    "RunDirectory",
    "check_run_directory",
    "dump_json",
    "fingerprint",
    "json_values",
    "read_object",
    "read_tensors",
    "remove_leftovers",
    "write_atomically",
    "write_object",
    "write_tensors",
]
