"""Lock-free shared state for Python processes.

A worker publishes its latest state into shared memory; any process on the machine reads whole snapshots of it in
microseconds, without a lock, without IPC and without the worker's help. Start with StateWriter and StateReader, or
with WorkerPool, which runs state machines in processes. The argument why it is right: shmstate/protocol.py.
"""

from __future__ import annotations

from shmstate.codecs import Codec, Field
from shmstate.errors import (
    AccessDenied,
    CodecMismatch,
    CorruptSegment,
    DecodeError,
    EncodeError,
    FleetError,
    HandleClosed,
    InvalidName,
    InvalidOption,
    NameInUse,
    NotPublished,
    OutOfSharedMemory,
    Overwritten,
    ReaderClosed,
    ReadTimeout,
    ReentrantPublish,
    ShmStateError,
    StateNotFound,
    StateTooLarge,
    SystemRefused,
    UnknownWorker,
    UnsupportedPlatform,
    UntrustedSegment,
    ViewInUse,
    WaitTimeout,
    WorkerDied,
    WriterClosed,
    WriterGone,
)
from shmstate.instant import Instant, snapshot
from shmstate.loan import Loan
from shmstate.pool import WorkerPool
from shmstate.query import Answer, Answers, QueryService
from shmstate.reader import Encoded, History, Snapshot, StateReader
from shmstate.records import record
from shmstate.registry import StateInfo, list_states, reclaim
from shmstate.sync import StateSync, SyncStats
from shmstate.view import View
from shmstate.worker import Machine
from shmstate.writer import StateWriter

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Answer",
    "Answers",
    "Codec",
    "CodecMismatch",
    "CorruptSegment",
    "DecodeError",
    "Encoded",
    "EncodeError",
    "Field",
    "FleetError",
    "HandleClosed",
    "History",
    "Instant",
    "InvalidName",
    "InvalidOption",
    "list_states",
    "Loan",
    "Machine",
    "NameInUse",
    "NotPublished",
    "OutOfSharedMemory",
    "Overwritten",
    "QueryService",
    "ReaderClosed",
    "ReadTimeout",
    "reclaim",
    "record",
    "ReentrantPublish",
    "ShmStateError",
    "Snapshot",
    "snapshot",
    "StateInfo",
    "StateNotFound",
    "StateReader",
    "StateSync",
    "StateTooLarge",
    "StateWriter",
    "SyncStats",
    "SystemRefused",
    "UnknownWorker",
    "UnsupportedPlatform",
    "UntrustedSegment",
    "View",
    "ViewInUse",
    "WaitTimeout",
    "WorkerDied",
    "WorkerPool",
    "WriterClosed",
    "WriterGone",
]
