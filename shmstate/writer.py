"""StateWriter: a segment owned, the publishing side of the protocol and a codec, joined and given a lifetime."""

from __future__ import annotations

import os
from multiprocessing import util
from typing import Any, Callable, Optional, Union

from shmstate import ownership, protocol
from shmstate.codecs import CodecLike, codec_named, flat_encoder
from shmstate.compat import STRONGLY_ORDERED
from shmstate.errors import EncodeError, WriterClosed
from shmstate.handle import Handle
from shmstate.layout import DEFAULT_MAX_SIZE, DEFAULT_SLOTS, plan

BytesLike = Union[bytes, bytearray, memoryview]


class StateWriter(Handle):
    """Owns the state called ``name`` and publishes it: creates ``/dev/shm/shmstate.NAME``, or adopts it.

    ``codec``     a built-in's name (msgpack, msgspec, json, raw, pickle) or a ``Codec``
    ``slots``     versions kept, 2 to 32; 2 is a double buffer and starves readers of large states
    ``max_size``  bytes a state may have. Address space, not memory: only what was published has memory behind it
    ``checksum``  store and check a CRC-32. None: where the machine reorders memory accesses (not on x86-64)

    A segment that a dead writer left is adopted with its last state and version, if it has the same options.
    ``close()``, leaving the with-block, garbage collection and a normal exit of the process all remove the segment;
    a process that is killed leaves it, last state and all, for readers, the next writer, or ``reclaim()``.

    A forked child's copy is closed: the state stays its parent's. A pickled writer claims the name anew.
    Threads may share a writer; they take turns.

    Raises InvalidName, InvalidOption, NameInUse (naming the owner), LayoutMismatch, OutOfSharedMemory,
    UntrustedSegment, CorruptSegment, UnsupportedPlatform.
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
        checksum: Optional[bool] = None,
    ) -> None:
        self._options = {"codec": codec, "slots": slots, "max_size": max_size, "checksum": checksum}
        self._codec = codec_named(codec)
        checked = not STRONGLY_ORDERED if checksum is None else bool(checksum)
        layout = plan(slots=slots, max_size=max_size, codec=self._codec.name, checksum=checked)
        self.name = name
        self._segment = ownership.claim(name, layout, checksum_matters=checksum is not None)
        self._steps = protocol.open_publishing(self._segment, self._segment.layout, name)
        self._latest = self._steps.latest
        retire, pid = self._steps.retire, os.getpid()
        self._segment.at_close(lambda: retire(_writer_closed(name, pid)))
        # Also runs in children of multiprocessing, which skip atexit; knows its own pid, so not in forked ones.
        self._finalizer = util.Finalize(self, ownership.disown, args=(self._segment, True), exitpriority=0)
        self._refuse = _refusal(name)
        self.publish = self._steps.through(flat_encoder(self._codec), self._refuse)
        self.publish_bytes = self._steps.through(flat_encoder(codec_named("raw")), self._refuse)

    def encode(self, value: Any) -> bytes:
        """The bytes that ``publish(value)`` would publish. Raises EncodeError."""
        try:
            return bytes(self._codec.encode(value))
        except Exception as error:
            raise self._refuse(value, error) from error

    def beat(self) -> None:
        """Say that the last state is still current, so that readers can tell unchanged from stalled."""
        self._steps.beat()

    def close(self, *, unlink: bool = True) -> None:
        """Stop owning the state and remove its segment; attached readers keep the last state. Idempotent.

        ``unlink=False`` leaves it to the next writer, or to ``reclaim()``.
        """
        self._finalizer.cancel()
        if self._segment.is_open:
            ownership.disown(self._segment, unlink)


def _refusal(name: str) -> protocol.Refuse:
    def refuse(value: Any, error: Exception) -> EncodeError:
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
