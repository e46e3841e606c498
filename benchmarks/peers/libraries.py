"""Peers from PyPI that keep a state in shared memory, or in a file that is mapped."""

from __future__ import annotations

import os
from typing import Any, List

from benchmarks.peers.peer import Peer


class Lmdb(Peer):
    title = "LMDB"
    package = "lmdb"
    module = "lmdb"
    how = "one key, a transaction for each read and each publish; in /dev/shm, writemap on, sync, metasync and readahead off"
    leaves_out = (
        "A database: many keys with ranges, transactions over all of them, writers in any process, and on a disk it outlives "
        "a reboot. It is tuned for this job here, and has been told to forget durability."
    )
    cleared_by = "by hand: it is a folder"
    stays = "a database is meant to stay"

    def create(self) -> None:
        self._open(readonly=False)

    def _open(self, *, readonly: bool) -> None:
        self.handle = self.library().open(
            f"/dev/shm/{self.name}",
            # A reader that the system does not let run keeps what is published meanwhile; what is not used costs nothing.
            map_size=1 << 30,
            writemap=not readonly,
            readonly=readonly,
            sync=False,
            metasync=False,
            readahead=False,
        )

    def publish(self, payload: bytes) -> None:
        with self.handle.begin(write=True) as transaction:
            transaction.put(b"state", payload)

    def attach(self) -> None:
        self._open(readonly=True)

    def read(self) -> Any:
        with self.handle.begin() as transaction:
            return transaction.get(b"state")


class UltraDict(Peer):
    title = "UltraDict"
    package = "UltraDict"
    module = "UltraDict"
    how = "one key of a dict; a buffer for 256 updates, at most 64 MB; its own lock, since one process writes"
    leaves_out = (
        "A whole dict, of which each process has a copy: a read of what has not changed is a look-up there. Many may write, "
        "with a shared lock."
    )
    random_names = True
    cleared_by = "`UltraDict.unlink_by_name`, for each of its names; the lock's semaphore by multiprocessing's tracker, with a warning"

    def create(self) -> None:
        room = min(64 << 20, max(10_000, 256 * (self.size + 100)))
        self.handle = self.library().UltraDict(name=self.name, create=True, buffer_size=room)

    def publish(self, payload: bytes) -> None:
        self.handle["state"] = payload

    def attach(self) -> None:
        self.handle = self.library().UltraDict(name=self.name, create=False)

    def read(self) -> Any:
        return self.handle["state"]


class EasyGlobals(Peer):
    title = "EasyGlobals"
    package = "EasyGlobals"
    module = "EasyGlobals"
    how = "one variable of a Globals, capacity and slots as they are by default; a reader stays attached"
    leaves_out = "Many variables with an owner each, and values of any type. They live as long as somebody is attached, by design."
    cleared_by = "the next program that uses the name begins anew"

    def create(self) -> None:
        self.handle = self.library().Globals(self.name)

    def publish(self, payload: bytes) -> None:
        self.handle.state = payload

    def attach(self) -> None:
        self.create()

    def read(self) -> Any:
        return self.handle["state"]


class Pyshmem(Peer):
    title = "pyshmem"
    package = "pyshmem"
    module = "pyshmem"
    how = "write and read of a stream of uint8; a read's NumPy array counts as bytes"
    leaves_out = (
        "Made for arrays of one shape, on the GPU too: arrays are what it takes and gives. It counts what a reader missed, "
        "and wakes who waits. Many may write, in turns."
    )
    cleared_by = "`pyshmem.unlink(name)`, or `pyshmem.purge()`"
    refusals = ("InconsistentStreamError", "TimeoutError")

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.owned = False
        self.numpy: Any = None

    @property
    def marks(self) -> List[str]:
        import hashlib  # here, since the others have no use for it

        return [self.name, hashlib.sha1(self.name.encode()).hexdigest()[:14]]  # what it makes of a name

    def create(self) -> None:
        self.owned = True
        self._begin()
        self.handle = self.library().create(self.name, shape=(self.size,), dtype=self.numpy.uint8)

    def _begin(self) -> None:
        os.environ["PYSHMEM_LOCK_DIR"] = f"{self.folder}/locks"
        self.numpy = __import__("numpy")

    def publish(self, payload: bytes) -> None:
        self.handle.write(self.numpy.frombuffer(payload, self.numpy.uint8))

    def attach(self) -> None:
        self._begin()
        self.handle = self.library().open(self.name)

    def read(self) -> Any:
        return self.handle.read()

    def close(self) -> None:
        if self.owned:
            self.handle.unlink()
        else:
            self.handle.close()


class SharedMemoryDict(Peer):
    title = "shared-memory-dict"
    package = "shared-memory-dict"
    module = "shared_memory_dict"
    how = "one key, in a segment that is as large as the pickled dict: each read copies all of it"
    leaves_out = (
        "A dict of any picklable values, with cache backends for Django and aiocache. Its lock is for the processes of one "
        "program that fork, so it is off."
    )
    cleared_by = "`shared_memory_dict.hooks.free_shared_memory`; or multiprocessing's tracker, with a warning"
    refusals = ("DeserializationError",)
    #: A pickled dict with one key and these bytes is longer than the bytes by less than this.
    PICKLED = 100

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.owned = False

    def create(self) -> None:
        self.owned = True
        self.attach()

    def publish(self, payload: bytes) -> None:
        self.handle["state"] = payload

    def attach(self) -> None:
        self.handle = self.library().SharedMemoryDict(name=self.name, size=self.size + self.PICKLED)

    def read(self) -> Any:
        return self.handle["state"]

    def close(self) -> None:
        self.handle.shm.close()
        if self.owned:
            self.handle.shm.unlink()
