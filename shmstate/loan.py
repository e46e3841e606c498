"""Loans: the next state's bytes, filled in place."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any, Optional, Type

from shmstate.errors import InvalidOption, OutOfSharedMemory, ViewInUse
from shmstate.lent import is_held
from shmstate.protocol import Publishing


class _Guard:
    __slots__ = ("__weakref__",)


class Loan:
    """A place in the segment to put the next state's bytes in. Made by ``StateWriter.loan()``, used as a with-block.

    The block gets a writable memoryview of single bytes; leaving it publishes them. An error in the block drops them:
    the last state stands.

    What the bytes are at the beginning is undefined. ``version`` is the version published, after the block.

    Leaving raises ViewInUse, and publishes nothing, while an array or the like refers to the bytes: who holds one could
    change a state that readers have been given. Drop it (``del array``) inside the block.
    """

    def __init__(self, name: str, nbytes: int, steps: Publishing, lifetime: object = None) -> None:
        self._name = name
        self._nbytes = nbytes
        self._steps = steps
        self._lent: Optional[memoryview] = None
        self._is_used = False
        self._is_in_place = False
        # An exception from a signal may come before the first instruction of __exit__. Then the loan ends when it is
        # garbage. Who has the turn keeps the token, so nothing is called for a loan that is over; a __del__ always is, and
        # an exception from a signal in there would be lost.
        guard = _Guard()
        self._token = weakref.ref(guard, steps.drop)
        self._guard = guard  # after the token: it goes after it
        self.version = 0
        self._lifetime = lifetime  # the writer's: it is not closed while a loan is there, so it goes last

    def __enter__(self) -> memoryview:
        if self._is_used:
            raise InvalidOption(f"state {self._name!r}: a loan serves once; ask the writer for another")
        self._is_used = True
        try:
            # Where the state has yet to move to, there is no place in it.
            lent = self._steps.lend(self._nbytes, self._token)
            self._is_in_place = lent is not None
            self._lent = memoryview(self._apart()) if lent is None else lent
            return self._lent
        except BaseException:
            self._steps.drop(self._token)  # without __enter__ there is no __exit__
            raise

    def _apart(self) -> bytearray:
        try:
            return bytearray(self._nbytes)
        except MemoryError as error:
            raise OutOfSharedMemory(
                f"state {self._name!r}: no memory for a loan of {self._nbytes} bytes, for which the state has to move;"
                f" nothing was published. Free some, or publish less"
            ) from error

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        lent, self._lent = self._lent, None
        if lent is None:
            return
        if not self._is_in_place:
            if kind is None:
                self.version = self._steps.through(_as_it_is, _unchanged)(lent)
            return
        try:
            is_let_go = _let_go(lent)
            version = self._steps.take_back(self._nbytes if kind is None and is_let_go else None)
        except BaseException:
            self._steps.drop(self._token)
            raise
        if kind is None:
            if not is_let_go:
                raise ViewInUse(
                    f"state {self._name!r}: something still refers to the bytes of the loan, such as an array or a slice"
                    f" made from it; nothing was published. Drop it (`del array`) before the block ends"
                )
            self.version = version


def _let_go(lent: memoryview) -> bool:
    if is_held(lent):
        return False
    try:
        lent.release()
    except BufferError:
        return False
    return True


def _as_it_is(payload: Any) -> Any:
    return payload


def _unchanged(_payload: Any, error: Exception) -> Exception:
    return error
