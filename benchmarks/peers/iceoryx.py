"""iceoryx2: a blackboard with one entry, of a fixed type."""

from __future__ import annotations

import ctypes
from typing import Any, Dict

from benchmarks.peers.peer import Peer


class Iceoryx(Peer):
    title = "iceoryx2 blackboard"
    package = "iceoryx2"
    module = "iceoryx2"
    how = (
        "a blackboard with one entry, an array of bytes of a fixed size; update_with_copy, from 64 KB on a loan, filled in "
        "place"
    )
    leaves_out = (
        "A middleware, for Rust, C, C++, C# and Python at once: publish-subscribe with many writers, queues, events that "
        "wake, request-response. Its Python copies where its other languages lend."
    )
    cleared_by = "the next node of any process that uses the same configuration"
    #: Bytes from which on a loan is faster than making a value, and copying that.
    LOANED = 64 << 10

    def __init__(self, name: str, size: int, folder: str) -> None:
        super().__init__(name, size, folder)
        self.kind: Any = None
        self.kept: Any = None

    def create(self) -> None:
        service = self._service().blackboard_creator(ctypes.c_uint64).add(ctypes.c_uint64(0), self.kind()).create()
        port = service.writer_builder().create()
        self.handle = port.entry(ctypes.c_uint64(0), self.kind)
        self.kept += [service, port]

    def attach(self) -> None:
        service = self._service().blackboard_opener(ctypes.c_uint64).open()
        port = service.reader_builder().create()
        self.handle = port.entry(ctypes.c_uint64(0), self.kind)
        self.kept += [service, port]

    def _service(self) -> Any:
        library = self.library()
        library.set_log_level(library.LogLevel.Fatal)
        config = library.config.default()
        # A configuration of its own, so that what it leaves is told from what others left.
        config.global_cfg.root_path = library.Path.new(f"{self.folder}/iceoryx2/")
        config.global_cfg.prefix = library.FileName.new(f"{self.name}_")
        builder = library.NodeBuilder.new().config(config)
        node = builder.signal_handling_mode(library.SignalHandlingMode.Disabled).create(library.ServiceType.Ipc)
        self.kept = [node]
        self.kind = type("State", (ctypes.Structure,), {"_fields_": [("data", ctypes.c_uint8 * self.size)]})
        return node.service_builder(library.ServiceName.new(self.name))

    def publish(self, payload: bytes) -> None:
        if self.size < self.LOANED:
            self.handle.update_with_copy(self.kind.from_buffer_copy(payload))
            return
        loan = self.handle.loan_uninit()
        ctypes.memmove(loan.value_mut(), payload, self.size)
        self.handle = loan.assume_init_and_update()

    def read(self) -> Any:
        return self.handle.get().data

    def close(self) -> None:
        self.handle = None
        while self.kept:
            self.kept.pop()

    def __getstate__(self) -> Dict[str, Any]:
        return {**super().__getstate__(), "kind": None, "kept": None}
