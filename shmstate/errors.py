"""Every error shmstate raises, and the tree they form.

    ShmStateError
    ├── UnsupportedPlatform      not Linux, not 64-bit, no /dev/shm
    ├── InvalidName              (ValueError) a name that cannot be a file name
    ├── InvalidOption            (ValueError) slots, sizes, codecs, intervals out of range
    ├── StateNotFound            (LookupError) no such segment
    │   └── UnknownWorker        ... asked for through a QueryService or a WorkerPool
    ├── NotPublished             the segment is there, its first publish is not
    ├── NameInUse                another writer, alive, owns the state
    ├── OutOfSharedMemory        /dev/shm is full; nothing was published
    ├── StateTooLarge            beyond max_size; nothing was published
    ├── CodecMismatch            the writer's codec is not the one the reader named
    ├── EncodeError              the value did not encode; nothing was published
    ├── DecodeError              whole bytes that do not decode
    ├── ReadTimeout              (TimeoutError) the bounded number of tries ran out
    ├── WaitTimeout              (TimeoutError) nothing newer was published in time
    ├── WriterGone               nothing newer will be published: the writer has closed or died
    ├── Overwritten              a version that was viewed, or asked for, is gone: newer ones have its slot
    ├── ViewInUse                (BufferError) live bytes are still referred to where they are to be let go
    ├── SystemRefused            the operating system refused a call: files, maps or locks used up, an I/O error
    │   └── AccessDenied         ... for want of a permission, or on a read-only mount
    ├── CorruptSegment           ours by name, not by content
    ├── UntrustedSegment         owned by another user
    ├── HandleClosed             (ValueError) used after close()
    │   ├── WriterClosed         ... or in a forked child
    │   └── ReaderClosed
    ├── ReentrantPublish         a signal handler published in the middle of a publish
    ├── WorkerDied               a worker process ended before its work did
    └── FleetError               no session with other hosts, or none any more

Texts name the object, what was seen, and what to do. Errors carry their text alone, so they pickle.
"""

from __future__ import annotations


class ShmStateError(Exception):
    """Base of all errors of shmstate."""


class UnsupportedPlatform(ShmStateError):
    """This machine lacks what the protocol rests on."""


class InvalidName(ShmStateError, ValueError):
    """The name cannot name a state."""


class InvalidOption(ShmStateError, ValueError):
    """An option is out of its range."""


class StateNotFound(ShmStateError, LookupError):
    """No segment of that name exists."""


class UnknownWorker(StateNotFound):
    """The fleet has no worker of that name."""


class NotPublished(ShmStateError):
    """The state exists, but nothing has been published in it yet."""


class NameInUse(ShmStateError):
    """A living writer owns the state."""


class OutOfSharedMemory(ShmStateError):
    """Shared memory is used up. Nothing was published; the last state is still readable."""


class StateTooLarge(ShmStateError):
    """The state is larger than ``max_size``. Nothing was published; the last state is still readable."""


class CodecMismatch(ShmStateError):
    """Reader and writer do not name the same codec."""


class EncodeError(ShmStateError):
    """The value could not be encoded. Nothing was published; the last state is still readable."""


class DecodeError(ShmStateError):
    """A whole snapshot did not decode: the writer published bytes that its codec cannot read."""


class ReadTimeout(ShmStateError, TimeoutError):
    """No whole copy within the bounded number of tries."""


class WaitTimeout(ShmStateError, TimeoutError):
    """Nothing newer was published within the time that was given."""


class WriterGone(ShmStateError):
    """The writer has closed or died, and published nothing newer before. Its last state can still be read."""


class Overwritten(ShmStateError):
    """The version's slot has been given to a newer one. What was read from it meanwhile may be anything."""


class ViewInUse(ShmStateError, BufferError):
    """Something still refers to the live bytes of a view."""


class SystemRefused(ShmStateError):
    """The operating system refused a call. The text names the limit; the last state is still readable."""


class AccessDenied(SystemRefused):
    """The operating system refused a call for want of a permission, or on a read-only mount."""


class CorruptSegment(ShmStateError):
    """The segment's bytes are not those of a shmstate segment."""


class UntrustedSegment(ShmStateError):
    """The segment belongs to a user whom this reader was not told to trust."""


class HandleClosed(ShmStateError, ValueError):
    """The handle was closed."""


class WriterClosed(HandleClosed):
    """The writer was closed, or belongs to the process this one was forked from."""


class ReaderClosed(HandleClosed):
    """The reader was closed."""


class ReentrantPublish(ShmStateError):
    """A publish was interrupted, in its own thread, by another publish of the same writer."""


class WorkerDied(ShmStateError):
    """A worker process ended before its work did."""


class FleetError(ShmStateError):
    """There is no session with other hosts: it could not be opened, or has been closed."""
