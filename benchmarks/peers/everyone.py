"""All that are compared."""

from __future__ import annotations

from typing import Tuple, Type

from benchmarks.peers.iceoryx import Iceoryx
from benchmarks.peers.libraries import EasyGlobals, Lmdb, Pyshmem, SharedMemoryDict, UltraDict
from benchmarks.peers.peer import Peer
from benchmarks.peers.servers import Redis
from benchmarks.peers.shared import DoubleBuffer, OnlyNewer, Rename, Shmstate, TwoSlots
from benchmarks.peers.stdlib import ManagerDict, Pipe, Queue

#: The first is what the others are compared with.
ALL: Tuple[Type[Peer], ...] = (
    Shmstate,
    TwoSlots,
    OnlyNewer,
    DoubleBuffer,
    Rename,
    Lmdb,
    Iceoryx,
    EasyGlobals,
    Pyshmem,
    UltraDict,
    SharedMemoryDict,
    Pipe,
    Queue,
    ManagerDict,
    Redis,
)
