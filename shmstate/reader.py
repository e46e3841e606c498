"""StateReader: a segment mapped read-only, the reading side of the protocol and a codec."""

from __future__ import annotations

import time
import weakref
from typing import Any, AsyncIterator, Callable, NamedTuple, Optional, Tuple, TypeVar

from shmstate import options, ownership, reading, waiting
from shmstate.attachment import Attachment
from shmstate.codecs import Codec, CodecLike, codec_for_reading, is_of_a_handler, is_of_the_codec
from shmstate.compat import require_platform
from shmstate.errors import DecodeError, InvalidOption, NotPublished, Overwritten, ReaderClosed, ReadTimeout
from shmstate.handle import Handle
from shmstate.view import View

_T = TypeVar("_T")


class Snapshot(NamedTuple):
    """One published state, whole. ``published_ns`` is on CLOCK_MONOTONIC, the same for all processes."""

    value: Any
    version: int
    published_ns: int

    @property
    def age(self) -> float:
        """Seconds since this version was published."""
        return _seconds_since(self.published_ns)


class Encoded(NamedTuple):
    """A snapshot whose value is left as the bytes that were published, and what decodes them."""

    payload: bytes
    version: int
    published_ns: int
    codec: Codec


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

    The segment is mapped read-only. Threads may share a reader. A state that moves to another segment, as it grows or
    gets a writer with other options, is followed: the first read afterwards takes some tens of microseconds more. A
    reader of a writer that closed or died gives the last state still, or the last before a move that it had not followed
    by then; a pickled reader attaches anew, by name.

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
        tries: int = reading.DEFAULT_TRIES,
    ) -> None:
        require_platform()
        options.check_whole("tries", tries, 1)
        if trust_uid is not None:
            options.check_whole("trust_uid", trust_uid, 0)
        self._options = {"codec": codec, "timeout": timeout, "trust_uid": trust_uid, "tries": tries}
        self.name = name
        self._holder = self._place = place = Attachment(name, timeout, trust_uid)
        self._views: weakref.WeakSet[View] = weakref.WeakSet()
        this = weakref.ref(
            self
        )  # not the reader itself: a forgotten reader goes at once, without the garbage collector

        def installed(steps: reading.SegmentReader, read_bytes: Callable[[], bytes], whole: reading.Whole) -> None:
            reader = this()
            if reader is not None:
                # Functions of one segment each. One that a caller has kept goes on to where the reader is.
                reader.read_bytes = read_bytes
                reader.get = _getter(name, steps, whole)

        try:
            self._steps = reading.open_reading(
                place,
                name,
                tries,
                codec_of=lambda layout: codec_for_reading(codec, layout.codec, name),
                closed=_reader_closed(name),
                installed=installed,
            )
        except BaseException:
            place.close()
            raise
        self._latest = self._steps.latest
        self._withheld = 0  # the version after which a writer was seen to have begun afresh

    def read(self) -> Snapshot:
        """The latest state with its version and time. Raises as ``get``."""
        return self.decode(self.read_encoded())

    def read_encoded(self) -> Encoded:
        """What ``read()`` decodes, for ``decode()`` later. Raises as ``read_bytes``."""
        return _encoded(self._steps.found(None))

    def decode(self, encoded: Encoded) -> Snapshot:
        """What ``read_encoded()`` gave, with the value that its bytes stand for. Raises DecodeError."""
        payload, version, published, codec = encoded
        try:
            value = codec.decode(payload)
        except Exception as error:
            raise _not_decoded(self.name, payload, f"version {version}", error) from error
        return Snapshot(value, version, published)

    def read_with_staleness(self) -> Tuple[Snapshot, float]:
        """``read()``, with the seconds since the writer last vouched for it (see ``staleness``)."""
        snapshot = self.read()
        return snapshot, _seconds_since(max(snapshot.published_ns, self._steps.heartbeat()))

    def get_if_newer(self, version: int) -> Optional[Snapshot]:
        """``read()``, or None if nothing newer than ``version`` is there: one load, nothing copied or decoded.

        None too where the writer has begun afresh and has published nothing since.
        """
        if version.__class__ is not int:
            options.check_whole(f"state {self.name!r}: version", version, 0)
        latest = self._latest()
        if latest <= version:
            return None
        try:
            return self.read()
        except NotPublished:
            if not latest:
                raise
            self._withheld = latest
            return None

    def wait(self, *, after: Optional[int] = None, timeout: Optional[float] = None) -> Snapshot:
        """Sleep until a version newer than ``after`` is there (None: than the latest now), and read it.

        A writer made with ``notify=True`` ends the sleep at once; without that it is ended by an eighth of the time
        waited later, 10 ms at most; so it is where gevent or eventlet has replaced ``time.sleep``. Versions in between are not shown: ``read_since`` has them, while they last. Raises
        WaitTimeout after ``timeout`` seconds (None: never), WriterGone when there is nobody to wait for, noticed within
        a quarter of a second, and as ``read``.
        """
        limit = options.check_timeout(f"state {self.name!r}: timeout", timeout)
        seen = self._latest() if after is None else options.check_whole(f"state {self.name!r}: after", after, 0)
        return waiting.wait(self, self._rest, seen, limit)

    def changes(self, *, after: int = 0) -> AsyncIterator[Snapshot]:
        """``async for snapshot in reader.changes()``: the latest state, then the latest whenever there is a newer one.

        Versions that came and went in between are left out. Ends when the writer has closed or died. Nothing of the loop
        waits. With a writer made with ``notify=True`` a thread sleeps, for 8 iterators of a process at a time; the
        others notice a version as ``wait`` does without ``notify``. Raises as ``read``.
        """
        return waiting.changes(
            self, self._rest, _version_of, options.check_whole(f"state {self.name!r}: after", after, 0)
        )

    def _rest(self, version: int, seconds: float) -> bool:
        return self._steps.rest(max(version, self._withheld), seconds)

    def read_into(self, target: Any) -> Snapshot:
        """Copy the latest state's bytes into a writable buffer; the snapshot's value is the part that was filled.

        For large states: a fresh copy pays for page faults that a kept buffer does not. If the read fails the
        buffer's content is undefined. Raises InvalidOption if it is too small, and as ``read_bytes``.
        """
        room = memoryview(target).cast("B")

        def take(view: memoryview, start: int, stop: int) -> memoryview:
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
        view = View(self.name, *self._steps.view())
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
            except Exception as error:
                if view.valid or is_of_a_handler(error):
                    raise
                continue
            if view.valid:
                view.release()
                return result
        raise ReadTimeout(
            f"state {self.name!r}: none of {tries} calls of {function!r} was through before the writer had overwritten"
            f" what it was given. Make the writer with more slots, publish less often, or read() a copy"
        )

    def field(self, name: str) -> Any:
        """One field of the latest state, which is a record (``shmstate.record``); nothing else is copied or decoded.

        A checksum, where the writer stores one, is not compared: that would read all bytes. Raises InvalidOption if the
        state's codec has no such field, DecodeError, and as ``read_bytes``.
        """
        tries = int(self._options["tries"])
        for _ in range(tries):
            data, version, _, steps = self._steps.view()
            fields = steps.codec.fields
            if name not in fields:
                raise InvalidOption(
                    f"state {self.name!r}: codec {steps.codec.name!r} has no field {name!r}; it has"
                    f" {', '.join(map(repr, fields)) or 'none that can be read alone'}"
                )
            start, stop, decode = fields[name]
            part = bytes(data[start:stop])
            if steps.is_whole(version):
                return self._decoded(decode, part, stop - start, version)
        raise ReadTimeout(f"state {self.name!r}: field {name!r} was overwritten {tries} times while it was copied")

    def _decoded(self, decode: Callable[[bytes], Any], part: bytes, nbytes: int, version: int) -> Any:
        try:
            if len(part) != nbytes:
                raise ValueError("the state ends before the field does")
            return decode(part)
        except Exception as error:
            raise _not_decoded(self.name, part, f"version {version}", error) from error

    def read_version(self, version: int) -> Snapshot:
        """That very version, while it lasts: the last ``slots - 1`` are there.

        Raises Overwritten, NotPublished if it is still to come, DecodeError, CorruptSegment, InvalidOption.
        """
        return self.decode(
            _encoded(self._steps.of_version(options.check_whole(f"state {self.name!r}: version", version, 1)))
        )

    def read_since(self, version: int) -> History:
        """All versions after ``version`` that are still there, oldest first, and how many were missed.

        Empty if nothing newer is published. Raises DecodeError, CorruptSegment, InvalidOption.
        """
        options.check_whole(f"state {self.name!r}: version", version, 0)
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
        views = list(self._views)
        for view in views:
            view.release()
        self._place.close()
        for view in views:
            view.retire(_reader_closed(self.name))

    @property
    def nbytes(self) -> int:
        """Bytes of the latest state. Raises as ``read_bytes``."""
        return len(self._steps.view()[0])

    @property
    def age(self) -> float:
        """Seconds since the latest version was published. Raises as ``read_bytes``."""
        return _seconds_since(self._steps.view()[2])

    @property
    def staleness(self) -> float:
        """Seconds since the writer last vouched for the state: published it, or said that it is unchanged."""
        published = self._steps.view()[2]
        return _seconds_since(max(published, self._steps.heartbeat()))

    @property
    def writer_alive(self) -> bool:
        """Whether a living writer owns the state. Asks the kernel, some microseconds."""
        return self._place.is_owned(self._latest)  # which raises ReaderClosed, if so

    @property
    def superseded(self) -> bool:
        """Whether the name leads to another state by now: the writer closed this one and opened a new one."""
        self._latest()
        return ownership.leads_elsewhere(self._segment.path, self._segment.inode)

    @property
    def retries(self) -> int:
        """Copies that this reader had to throw away and take again, so far."""
        return self._steps.retries()


def _version_of(snapshot: Snapshot) -> int:
    return snapshot.version


def _seconds_since(monotonic_ns: int) -> float:
    return (time.monotonic_ns() - monotonic_ns) / 1e9


def _encoded(found: reading.Found) -> Encoded:
    payload, version, published, steps = found
    return Encoded(payload, version, published, steps.codec)


def _getter(name: str, steps: reading.SegmentReader, whole: reading.Whole) -> Callable[[], Any]:
    try_read, decode = steps.try_read, steps.codec.decode

    def get() -> Any:
        payload = try_read()
        if payload is None:
            return get_elsewhere()
        try:
            return decode(payload)
        except Exception as error:
            raise _not_decoded(name, payload, f"version {steps.latest()} or just before", error) from error

    def get_elsewhere() -> Any:
        payload, found_in = whole()
        try:
            return found_in.codec.decode(payload)
        except Exception as error:
            raise _not_decoded(name, payload, f"version {found_in.latest()} or just before", error) from error

    return get


def _not_decoded(name: str, payload: bytes, which: str, error: Exception) -> DecodeError:
    if not is_of_the_codec(error):
        raise error
    return DecodeError(
        f"state {name!r}: {which}, {len(payload)} whole bytes starting {payload[:16]!r}, did not decode"
        f" ({type(error).__name__}: {error}); its writer published something else than its codec's bytes"
    )


def _reader_closed(name: str) -> Callable[[], Exception]:
    return lambda: ReaderClosed(f"state {name!r}: this reader was closed; open a new StateReader")
