"""Views: the live bytes of one published version, with the means to ask whether they still are that version's."""

from __future__ import annotations

import gc
import time
from types import TracebackType
from typing import Callable, NoReturn, Optional, Type

from shmstate.codecs import is_of_a_handler
from shmstate.errors import ViewInUse
from shmstate.lent import is_held
from shmstate.reading import SegmentReader


class View:
    """The bytes of the state as they lie in shared memory, read-only and not copied. Made by ``StateReader.view()``.

    The writer does not wait for views: after ``slots - 1`` further publishes it writes over these bytes. Compute first,
    then ask: what was computed before ``valid`` was True came from one whole version. Leaving the block raises
    Overwritten if it no longer is, also in place of an error of the block, which torn bytes may have caused.

    ``data``          a memoryview of single bytes; ``numpy.frombuffer(view.data, dtype)`` makes an array without a copy,
                      and of a state with ``codec="array"`` ``shmstate.arrays.decode(view.data)`` does
    ``version``       which version it is
    ``published_ns``  when it was published, on CLOCK_MONOTONIC

    A checksum, where the writer stores one, is not compared: that would read all bytes once more.
    """

    __slots__ = ("__weakref__", "_gone", "_is_released", "_is_whole", "_name", "data", "published_ns", "version")

    def __init__(
        self,
        name: str,
        data: memoryview,
        version: int,
        published_ns: int,
        here: SegmentReader,
    ) -> None:
        self._name = name
        self._is_released = False
        self._is_whole: Callable[[int], bool] = here.is_whole
        self._gone: Callable[[int], Exception] = here.gone
        self.data = data
        self.version = version
        self.published_ns = published_ns

    @property
    def valid(self) -> bool:
        """Whether all that was read through this view so far was the version's. Raises ReaderClosed."""
        return self._is_whole(self.version)

    @property
    def age(self) -> float:
        """Seconds since this version was published."""
        return (time.monotonic_ns() - self.published_ns) / 1e9

    def check(self) -> None:
        """Raise Overwritten unless ``valid``."""
        if not self.valid:
            raise self._gone(self.version)

    def release(self) -> None:
        """Let go of the bytes. Idempotent. Raises ViewInUse while a slice, an array or the like refers to them."""
        if self._is_released:
            return
        if is_held(self.data):
            gc.collect()  # it may be garbage: the frames of an error refer to each other
        self._let_go()

    def _let_go(self) -> None:
        try:
            if is_held(self.data):
                raise BufferError("it exists")
            self.data.release()
        except BufferError as error:
            raise ViewInUse(
                f"state {self._name!r}: something still refers to the bytes of the view of version {self.version}, such"
                f" as an array or a slice made from it; copy it (`array.copy()`), or drop it (`del array`) before the"
                f" block ends"
            ) from error
        self._is_released = True

    def retire(self, error: Callable[[], Exception]) -> None:
        """Have all questions raise ``error()``: the bytes are gone."""

        def asked(_version: int) -> NoReturn:
            raise error()

        self._is_whole = self._gone = asked

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        is_whole = self.valid
        if kind is None:
            self.release()
        else:
            # What refers to the bytes may be in the frames of the error: they go with it.
            try:
                self._let_go()
            except ViewInUse:
                pass
        if not is_whole and (error is None or (isinstance(error, Exception) and not is_of_a_handler(error))):
            raise self._gone(self.version) from error

    def __repr__(self) -> str:
        return f"<View of {self._name!r} version {self.version}>"
