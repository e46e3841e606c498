"""StateReader: a segment mapped read-only, the reading side of the protocol and a codec."""

from __future__ import annotations

import time
import weakref
from typing import Any, Callable, NamedTuple, Optional, Tuple, TypeVar

from shmstate import memory, ownership, protocol
from shmstate.codecs import CodecLike, codec_for_reading
from shmstate.compat import require_platform
from shmstate.errors import DecodeError, InvalidOption, Overwritten, ReaderClosed, ReadTimeout, StateNotFound
from shmstate.handle import Handle
from shmstate.view import View

_T = TypeVar("_T")

_LONGEST_NAP = 0.01


class Snapshot(NamedTuple):
    """One published state, whole. ``published_ns`` is on CLOCK_MONOTONIC, the same for all processes."""

    value: Any
    version: int
    published_ns: int

    @property
    def age(self) -> float:
        """Seconds since this version was published."""
        return _seconds_since(self.published_ns)


class History(NamedTuple):
    """What was published since. ``missed``: versions that were overwritten before they were read."""

    snapshots: Tuple[Snapshot, ...]
    missed: int


class StateReader(Handle):
    """Reads the state called ``name`` from any process, never waiting for its writer and never disturbing it.

    ``codec``      None takes the writer's, if reading it cannot run code: ``pickle`` and your own must be named
    ``timeout``    seconds to wait for the state to exist; not for its first publish
    ``trust_uid``  a user, besides this process's, whose segments are believed
    ``tries``      copies attempted before ReadTimeout; one is nearly always enough

    The segment is mapped read-only. Threads may share a reader. A reader of a writer that closed or died gives
    the last state still; a pickled reader attaches anew, by name.

    Raises StateNotFound, CodecMismatch, UntrustedSegment, CorruptSegment, OutOfSharedMemory, InvalidName,
    InvalidOption, UnsupportedPlatform.
    """

    #: ``get() -> value``: the latest state. Raises NotPublished, DecodeError, ReadTimeout, ReaderClosed.
    get: Callable[[], Any]

    #: ``read_bytes() -> bytes``: the latest state as it was published. Raises NotPublished, ReadTimeout, ReaderClosed.
    read_bytes: Callable[[], bytes]

    def __init__(
        self,
        name: str,
        *,
        codec: Optional[CodecLike] = None,
        timeout: float = 0.0,
        trust_uid: Optional[int] = None,
        tries: int = protocol.DEFAULT_TRIES,
    ) -> None:
        require_platform()
        if tries < 1:
            raise InvalidOption(f"tries={tries}: a read takes one at least")
        self._options = {"codec": codec, "timeout": timeout, "trust_uid": trust_uid, "tries": tries}
        self.name = name
        self._segment = _attach_within(name, timeout, trust_uid)
        try:
            self._codec = codec_for_reading(codec, self._segment.layout.codec, name)
        except BaseException:
            self._segment.close()
            raise
        self._views: weakref.WeakSet[View] = weakref.WeakSet()
        self._steps = protocol.open_reading(self._segment, self._segment.layout, name, tries)
        self._latest = self._steps.latest
        retire = self._steps.retire
        self._segment.at_close(lambda: retire(_reader_closed(name)))
        self.read_bytes = self._steps.read_bytes
        self.get = _getter(name, self._codec.decode, self._steps)

    def read(self) -> Snapshot:
        """The latest state with its version and time. Raises as ``get``."""
        return self.decode(self.read_encoded())

    def read_encoded(self) -> Snapshot:
        """``read()``, its value left as the bytes that were published, for ``decode()`` later. Raises as ``read_bytes``."""
        return Snapshot(*self._steps.snapshot())

    def decode(self, encoded: Snapshot) -> Snapshot:
        """What ``read_encoded()`` gave, with the value that its bytes stand for. Raises DecodeError."""
        payload, version, published = encoded
        return Snapshot(self._decoded(payload, version), version, published)

    def _decoded(self, payload: bytes, version: int) -> Any:
        try:
            return self._codec.decode(payload)
        except Exception as error:
            raise _not_decoded(self.name, payload, f"version {version}", error) from error

    def read_with_staleness(self) -> Tuple[Snapshot, float]:
        """``read()``, with the seconds since the writer last vouched for it (see ``staleness``)."""
        snapshot = self.read()
        return snapshot, _seconds_since(max(snapshot.published_ns, self._steps.heartbeat()))

    def get_if_newer(self, version: int) -> Optional[Snapshot]:
        """``read()``, or None if nothing newer than ``version`` is there: one load, nothing copied or decoded."""
        return None if self._latest() <= version else self.read()

    def read_into(self, target: Any) -> Snapshot:
        """Copy the latest state's bytes into a writable buffer; the snapshot's value is the part that was filled.

        For large states: a fresh copy pays for page faults that a kept buffer does not. If the read fails the
        buffer's content is undefined. Raises InvalidOption if it is too small, and as ``read_bytes``.
        """
        room = memoryview(target).cast("B")
        view = self._segment.view

        def take(start: int, stop: int) -> memoryview:
            if stop - start > len(room):
                raise InvalidOption(f"state {self.name!r}: {stop - start} bytes do not fit a buffer of {len(room)}")
            filled = room[: stop - start]
            filled[:] = view[start:stop]
            return filled

        return Snapshot(*self._steps.snapshot(take))

    def view(self) -> View:
        """The latest state's bytes themselves, not copied: for large ones. Use it as a with-block; see View.

        Raises NotPublished, ReadTimeout.
        """
        (start, stop), version, published = self._steps.snapshot(protocol.range_only)
        view = View(self.name, self._segment.view[start:stop], version, published, self._steps)
        self._views.add(view)
        return view

    def apply(self, function: Callable[[memoryview], _T]) -> _T:
        """``function(data)`` of the latest state's live bytes, called again until they held still for it.

        For a sum, a maximum, one field: what it returns must not refer to ``data``. It may see bytes of two versions at
        once, and raise for it; then it is called again. After ``tries`` calls ReadTimeout; else raises as ``view``, what
        ``function`` raises of a whole state, and ViewInUse if the bytes got away.
        """
        tries = int(self._options["tries"])
        for _ in range(tries):
            view = self.view()
            try:
                result = function(view.data)
            except Exception:
                if view.valid:
                    raise
                continue
            if view.valid:
                view.release()
                return result
        raise ReadTimeout(
            f"state {self.name!r}: none of {tries} calls of {function!r} was through before the writer had overwritten"
            f" what it was given. Make the writer with more slots, publish less often, or read() a copy"
        )

    def read_version(self, version: int) -> Snapshot:
        """That very version, while it lasts: the last ``slots - 1`` are there.

        Raises Overwritten, NotPublished if it is still to come, DecodeError, CorruptSegment, InvalidOption.
        """
        return self.decode(Snapshot(*self._steps.of_version(version)))

    def read_since(self, version: int) -> History:
        """All versions after ``version`` that are still there, oldest first, and how many were missed.

        Empty if nothing newer is published. Raises DecodeError, CorruptSegment, InvalidOption.
        """
        if version < 0:
            raise InvalidOption(f"state {self.name!r}: version {version}: give 0 for all")
        latest = self._latest()
        snapshots = []
        for wanted in range(max(version + 1, latest - self.slots + 1, 1), latest + 1):
            try:
                snapshots.append(self.read_version(wanted))
            except Overwritten:
                continue
        return History(tuple(snapshots), max(latest - version, 0) - len(snapshots))

    def close(self) -> None:
        """Let go of the segment. Idempotent. Raises ViewInUse, and stays open, while something refers to a view."""
        for view in list(self._views):
            view.release()
        super().close()

    @property
    def nbytes(self) -> int:
        """Bytes of the latest state. Raises as ``read_bytes``."""
        start, stop = self._steps.snapshot(protocol.range_only)[0]
        return int(stop - start)

    @property
    def age(self) -> float:
        """Seconds since the latest version was published. Raises as ``read_bytes``."""
        return _seconds_since(self._steps.snapshot(protocol.range_only)[2])

    @property
    def staleness(self) -> float:
        """Seconds since the writer last vouched for the state: published it, or said that it is unchanged."""
        published = self._steps.snapshot(protocol.range_only)[2]
        return _seconds_since(max(published, self._steps.heartbeat()))

    @property
    def writer_alive(self) -> bool:
        """Whether a living writer owns this very segment. Asks the kernel, some microseconds."""
        self._latest()  # ReaderClosed, if so
        return ownership.is_owned(self._segment.path, self._segment.inode)

    @property
    def superseded(self) -> bool:
        """Whether the name leads to another segment by now: the writer closed this one and opened a new one."""
        return ownership.leads_elsewhere(self._segment.path, self._segment.inode)

    @property
    def retries(self) -> int:
        """Copies that this reader had to throw away and take again, so far."""
        return self._steps.retries()


def _seconds_since(monotonic_ns: int) -> float:
    return (time.monotonic_ns() - monotonic_ns) / 1e9


def _attach_within(name: str, timeout: float, trust_uid: Optional[int]) -> memory.Segment:
    deadline = time.monotonic() + timeout
    nap = 0.0005
    while True:
        try:
            return memory.attach(name, trust_uid)
        except StateNotFound:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(nap, left))
        nap = min(2 * nap, _LONGEST_NAP)


def _getter(name: str, decode: Callable[[bytes], Any], steps: protocol.Reading) -> Callable[[], Any]:
    read_bytes, latest = steps.read_bytes, steps.latest

    def get() -> Any:
        payload = read_bytes()
        try:
            return decode(payload)
        except Exception as error:
            raise _not_decoded(name, payload, f"version {latest()} or just before", error) from error

    return get


def _not_decoded(name: str, payload: bytes, which: str, error: Exception) -> DecodeError:
    return DecodeError(
        f"state {name!r}: {which}, {len(payload)} whole bytes starting {payload[:16]!r}, did not decode"
        f" ({type(error).__name__}: {error}); its writer published something else than its codec's bytes"
    )


def _reader_closed(name: str) -> Callable[[], Exception]:
    return lambda: ReaderClosed(f"state {name!r}: this reader was closed; open a new StateReader")
