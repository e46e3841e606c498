"""Runs at the start of each Python that a recorded process starts: it keeps the ledger too.

This folder stands on PYTHONPATH while tests run. What would have been imported under this name is imported next, and
``sys.path`` looks as it would without it. Written so that any Python can read it: also one that is too old to keep it.
"""

import os
import sys

_folder = os.path.dirname(os.path.abspath(__file__))
_itself = sys.modules.pop("sitecustomize")
sys.path[:] = [entry for entry in sys.path if entry != _folder]


def _keep_the_ledger():
    # type: () -> None
    ledgers = os.environ.get("PYTEST_SHMSTATE_LEDGER")
    if not ledgers or sys.version_info < (3, 8):
        return
    from importlib.util import module_from_spec, spec_from_file_location

    name = "_shmstate_recorder"
    spec = spec_from_file_location(name, os.path.join(os.path.dirname(_folder), "recorder.py"))
    if spec is None or spec.loader is None:
        return
    recorder = module_from_spec(spec)
    sys.modules[name] = recorder
    spec.loader.exec_module(recorder)
    recorder.keep(tuple(ledgers.split(os.pathsep)))
    os.environ[recorder.PARENT] = str(os.getpid())


try:
    _keep_the_ledger()
except Exception:  # a Python that cannot keep the ledger must start all the same
    sys.modules.pop("_shmstate_recorder", None)

try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401 - the next one on the path
except ImportError as _error:
    # Before 3.3 the error has no name, but its text ends with it.
    if getattr(_error, "name", str(_error).rpartition(" ")[2]) != "sitecustomize":
        raise
    sys.modules["sitecustomize"] = _itself
