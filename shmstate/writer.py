"""StateWriter: a segment owned, the publishing side of the protocol and a codec, joined and given a lifetime."""

from __future__ import annotations

import functools
import operator
import os
import warnings
from typing import Any, Callable, Optional, Union

from shmstate import ownership, protocol, publishing
from shmstate.codecs import CodecLike, codec_named, flat_encoder, is_of_the_codec
from shmstate.compat import STRONGLY_ORDERED
from shmstate.ending import Ending
from shmstate.errors import CodecMismatch, EncodeError, InvalidOption, NameInUse, ShmStateError, WriterClosed
from shmstate.handle import Handle
from shmstate.layout import DEFAULT_MAX_SIZE, DEFAULT_SLOTS, Layout, plan, with_room_for
from shmstate.loan import Loan
from shmstate.options import check_timeout
from shmstate.title import SharedTitle, Title, require_same_codec

BytesLike = Union[bytes, bytearray, memoryview]


class StateWriter(Handle):
    """Owns the state called ``name`` and publishes it: creates ``/dev/shm/shmstate.NAME``, or adopts it.

    ``codec``     a built-in's name (msgpack, msgspec, json, raw, pickle) or a ``Codec``
    ``slots``     versions kept, 2 to 32; 2 is a double buffer and starves readers of large states
    ``max_size``  bytes reserved for a state. Address space, not memory: only what was published has memory behind it
    ``grow``      a state beyond ``max_size`` moves to a segment with twice the room, and readers follow it, losing only
                  the older versions. False: StateTooLarge instead
    ``shared``    own it with other writers that share it too, in any process: each publish waits for its turn, versions
                  are in the order of publishes, and a writer that dies in its turn holds up nobody
    ``lock_timeout``  with ``shared``, seconds that a publish waits for a writer that is publishing, then WaitTimeout and
                  nothing is published. None: as long as it takes, also for a process that is stopped in its turn
    ``notify``    wake readers that wait with each publish, some microseconds; without it they look every few milliseconds
    ``fresh``     do not show readers what a dead writer left: until the first publish they get NotPublished. Versions go on
    ``checksum``  store and check a CRC-32. None: where the machine reorders memory accesses (not on x86-64)

    A segment that a dead writer left is adopted with its last state and version. If it was made with other options the
    first publish moves the state to one that has these; until then readers get what the dead writer left, as old as it is:
    adopting a state confirms nothing.
    ``close()``, leaving the with-block, garbage collection and a normal exit of the process all remove the segment;
    a process that is killed leaves it, last state and all, for readers, the next writer, or ``reclaim()``.

    A forked child's copy is closed: the state stays its parent's. A pickled writer claims the name anew.
    Threads may share a writer; they take turns. Of writers with ``shared``, all must use one codec, or CodecMismatch; the
    last to close removes the segment; StateWriters without it get NameInUse, and the other way round.

    Raises InvalidName, InvalidOption, NameInUse (naming the owner), OutOfSharedMemory, UntrustedSegment,
    CorruptSegment, UnsupportedPlatform.
    """

    #: ``publish(value) -> version``. Encodes and publishes; nobody waits. On EncodeError, StateTooLarge or
    #: OutOfSharedMemory nothing was published and the last state is still readable. WriterClosed after close().
    publish: Callable[[Any], int]

    #: ``publish_bytes(payload) -> version``. The same for any contiguous bytes-like object, as it is.
    publish_bytes: Callable[[BytesLike], int]

    def __init__(
        self,
        name: str,
        *,
        codec: CodecLike = "msgpack",
        slots: int = DEFAULT_SLOTS,
        max_size: int = DEFAULT_MAX_SIZE,
        grow: bool = True,
        shared: bool = False,
        lock_timeout: Optional[float] = None,
        notify: bool = False,
        fresh: bool = False,
        checksum: Optional[bool] = None,
    ) -> None:
        self._options = {
            "codec": codec,
            "slots": slots,
            "max_size": max_size,
            "grow": grow,
            "shared": shared,
            "lock_timeout": lock_timeout,
            "notify": notify,
            "fresh": fresh,
            "checksum": checksum,
        }
        self._codec = codec_named(codec)
        checked = not STRONGLY_ORDERED if checksum is None else bool(checksum)
        self._planned = plan(slots=slots, max_size=max_size, codec=self._codec.name, checksum=checked)
        self.name = name
        limit = check_timeout("lock_timeout", lock_timeout)
        self._holder = self._title = title = _entitled(name, self._planned, shared, limit)
        wanted = self._wanted(title.segment.layout)
        self._steps = publishing.open_publishing(
            title, name, wanted=None if wanted == title.segment.layout else wanted, grows=grow, notify=notify
        )
        self._latest = self._steps.latest
        retire, pid = self._steps.retire, os.getpid()
        title.at_close(lambda: retire(_writer_closed(name, pid)))
        # What the writer and its functions have in common: the state is given up when none of them is left.
        self._lifetime = lifetime = _Lifetime()
        give_up = functools.partial(_give_up, title)
        self._ending = Ending(lifetime, self._steps.finish, give_up, priority=0)
        self._refuse = _refusal(name)
        self._encode = flat_encoder(self._codec)
        self.publish = self._steps.through(self._encode, self._refuse)
        if self._codec.fill is not None:
            self.publish = _filling(name, self._codec.fill, self._steps, self._refuse)
        self.publish_bytes = self._steps.through(flat_encoder(codec_named("raw")), self._refuse)
        for function in (self.publish, self.publish_bytes):
            vars(function)["lifetime"] = lifetime
        if fresh:
            self._begin_afresh()

    def _begin_afresh(self) -> None:
        try:
            self._steps.hide(self._require_no_others)
        except NameInUse:
            self.close()  # the others may have closed since: then this one was the last
            raise
        except BaseException:
            self.close(unlink=False)
            raise

    def _require_no_others(self) -> None:
        """In the turn: a writer that joins later has published nothing yet."""
        if self._options["shared"] and ownership.are_others_present(self._segment):
            raise NameInUse(
                f"state {self.name!r} has other writers (shared=True), so fresh=True would hide what they have"
                f" published; leave fresh out"
            )

    def _wanted(self, found: Layout) -> Layout:
        """What the options ask for, where a segment of the layout ``found`` is there."""
        wanted = self._planned
        if self._options["checksum"] is None:
            wanted = wanted._replace(checksum=found.checksum)
        if self._options["grow"] and found.stride > wanted.stride:
            wanted = wanted._replace(stride=found.stride)  # what it has grown to, it may need again
        return wanted

    def loan(self, nbytes: int) -> Loan:
        """A place in the segment to put the next state's bytes in, without a copy; a with-block publishes them.

        Other threads that publish wait meanwhile. See Loan. Raises InvalidOption, StateTooLarge, OutOfSharedMemory,
        ReentrantPublish; then nothing has changed.
        """
        if isinstance(nbytes, bool) or not isinstance(nbytes, int) or nbytes < 0:
            raise InvalidOption(f"state {self.name!r}: a loan of {nbytes!r} bytes: give their number")
        return Loan(self.name, nbytes, self._steps, self._lifetime)

    def trim(self) -> int:
        """Give back the memory that larger states needed once; returns the bytes given back.

        The last state moves to a new segment, with the reservation that ``max_size`` says if it fits. The old one's
        memory is free when the last reader that is attached there has read again, or closed. Older versions are lost.
        Raises NotPublished, OutOfSharedMemory.
        """
        before = self._segment.committed()
        reserved = self._segment.layout._replace(stride=self._planned.stride)
        self._steps.move(functools.partial(with_room_for, reserved))
        return max(before - self._segment.committed(), 0)

    def encode(self, value: Any) -> bytes:
        """The bytes that ``publish(value)`` would publish. Raises EncodeError."""
        try:
            return bytes(self._encode(value))
        except Exception as error:
            raise self._refuse(value, error) from error

    def beat(self) -> None:
        """Say that the last state is still current, so that readers can tell unchanged from stalled."""
        self._steps.beat()

    def close(self, *, unlink: bool = True) -> None:
        """Stop owning the state and remove its segment; attached readers keep the last state. Idempotent.

        ``unlink=False`` leaves it to the next writer, or to ``reclaim()``. Waits for a publish, a loan or a trim of another
        thread to end. In the middle of one of this thread (in a loan's block, or in a signal handler) it is done when that
        ends. Raises AccessDenied, SystemRefused if the segment cannot be removed; the writer is closed then, and the name
        stays.
        """
        if self._title.is_held:
            self._steps.close(functools.partial(self._title.give_up, unlink))
        self._ending.cancel()


class _Lifetime:
    """Refers to nothing, so that it is no part of a cycle."""

    __slots__ = ("__weakref__",)


def _give_up(title: Title) -> None:
    try:
        title.give_up(unlink=True)
    except ShmStateError as error:  # at exit, or out of a finalizer: nothing there could catch it
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)


def _entitled(name: str, layout: Layout, shared: bool, lock_timeout: Optional[float]) -> Title:
    segment = ownership.claim(name, layout, shared)
    if not shared:
        return Title(segment)
    title = SharedTitle(segment)
    title.lock_timeout = lock_timeout
    title.at_close(lambda: None)
    try:
        if ownership.are_others_present(segment):
            require_same_codec(segment.layout.codec, layout.codec, name)
    except CodecMismatch:
        title.give_up(unlink=True)  # the others may have closed since: then this one was the last
        raise
    except BaseException:
        title.give_up(segment.is_new)
        raise
    return title


def _filling(name: str, fill: Any, steps: protocol.Publishing, refuse: protocol.Refuse) -> Callable[[Any], int]:
    def publish(value: Any) -> int:
        try:
            nbytes, write = fill(value)
            nbytes = operator.index(nbytes)
            if nbytes < 0:
                raise ValueError(f"fill gave {nbytes} as the number of bytes")
        except Exception as error:
            raise refuse(value, error) from error
        loan = Loan(name, nbytes, steps)
        with loan as view:
            try:
                write(view)
            except Exception as error:
                raise refuse(value, error) from error
        return loan.version

    return publish


def _refusal(name: str) -> protocol.Refuse:
    def refuse(value: Any, error: Exception) -> EncodeError:
        if not is_of_the_codec(error):
            raise error
        return EncodeError(
            f"state {name!r}: a {type(value).__name__} did not encode ({type(error).__name__}: {error});"
            f" nothing was published, the last state stands"
        )

    return refuse


def _writer_closed(name: str, pid: int) -> Callable[[], Exception]:
    def error() -> Exception:
        if os.getpid() != pid:
            return WriterClosed(
                f"state {name!r}: its writer belongs to pid {pid}, of which this process (pid {os.getpid()}) is a"
                f" forked child; open a StateWriter with a name of its own here"
            )
        return WriterClosed(f"state {name!r}: its writer was closed; open a new StateWriter")

    return error
