"""Examples in docstrings are tests too.

    left in the examples names
    shown and kept by python
    shown last

>>> from multiprocessing.shared_memory import SharedMemory
>>> segment = SharedMemory(create=True, size=10)
>>> segment.close()
>>> segment.unlink()
"""

from __future__ import annotations


def left_in_the_examples_names() -> None:
    """A lock that only the example's names hold.

    >>> from tests.plugin.innocent.parts import SPAWN
    >>> lock = SPAWN.Lock()
    >>> with lock:
    ...     pass
    """


def shown_and_kept_by_python() -> None:
    """A lock that ``builtins._`` holds, until another value is shown.

    >>> from tests.plugin.innocent.parts import SPAWN
    >>> SPAWN.Lock()  # doctest: +ELLIPSIS
    <Lock(owner=...)>
    """


def shown_last() -> None:
    """A segment that is the last value shown.

    >>> from multiprocessing.shared_memory import SharedMemory
    >>> segment = SharedMemory(create=True, size=10)
    >>> segment.unlink()
    >>> segment  # doctest: +ELLIPSIS
    SharedMemory('...', size=...)
    """
