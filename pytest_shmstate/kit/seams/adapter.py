"""What the kit asks of a structure under test, and shmstate's own answer.

class MyAdapter(Adapter):
    title = "my ring"
    def create(self, name, size): return MyRing(name, size)      # the writer's side
    def attach(self, name): return MyRing(name)                  # a reader's side
    def publish(self, writer, payload): writer.put(payload)
    def read(self, reader): return reader.get()
    def close(self, handle): handle.close()
    def remove(self, name): ...                                  # whatever killed ones left
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Optional, Tuple, Type

import shmstate
from shmstate import makers, ownership
from shmstate.layout import NEW_PREFIX, SHM_DIR


class Adapter(ABC):
    """How to use one kind of structure. Instances are pickled into the processes that use it; they hold no handle.

    ``name`` is unique to one run of the structure: whatever it puts into ``/dev/shm`` should begin with it.
    """

    #: What reports call it.
    title = "a structure"
    #: What ``read`` and ``publish`` may raise by their documentation: such an operation returned nothing, and is no fault.
    refusals: Tuple[Type[Exception], ...] = ()
    #: Whether the last state is still to be read after its writer was killed, and ``create`` goes on from there.
    survives_death = True
    #: Whether several writers at a time may publish, each created for itself.
    is_shared = False

    @abstractmethod
    def create(self, name: str, size: int) -> Any:
        """The writer's side of the structure called ``name``, for states of ``size`` bytes. Adopts what a dead one left."""

    @abstractmethod
    def attach(self, name: str) -> Any:
        """A reader's side. Something was created before; nothing need have been published."""

    @abstractmethod
    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        """Make ``payload`` the state; the version that the structure gives it, if it has such a thing."""

    @abstractmethod
    def read(self, reader: Any) -> Optional[bytes]:
        """The state, or None if nothing has been published."""

    def resize(self, writer: Any, size: int) -> None:  # noqa: ARG002
        """Make room for states of ``size`` bytes, or give room back. By default the structure has one size for ever."""
        raise TypeError(f"{self.title} cannot be resized: its adapter defines no resize()")

    @property
    def can_resize(self) -> bool:
        """Whether ``resize`` was defined."""
        return type(self).resize is not Adapter.resize

    def hand_over(self, writer: Any) -> None:
        """Stop writing, and leave the structure to the next ``create``. By default that is to close it."""
        self.close(writer)

    @abstractmethod
    def close(self, handle: Any) -> None:
        """Let go of one side."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove whatever is left, also if nothing is. Called when all who used it have closed, or were killed."""


class ShmstateAdapter(Adapter):
    """shmstate itself. ``options`` are a StateWriter's."""

    title = "shmstate"
    refusals = (shmstate.ReadTimeout,)

    def __init__(self, **options: Any) -> None:
        self.options = {"codec": "raw", **options}
        self.is_shared = bool(self.options.get("shared"))

    def create(self, name: str, size: int) -> Any:
        """A StateWriter with room for ``size`` bytes; more moves it."""
        return shmstate.StateWriter(name, max_size=size, **self.options)

    def attach(self, name: str) -> Any:
        """A StateReader."""
        return shmstate.StateReader(name)

    def publish(self, writer: Any, payload: bytes) -> Optional[int]:
        """Returns the version."""
        version: int = writer.publish_bytes(payload)
        return version

    def read(self, reader: Any) -> Optional[bytes]:
        """The bytes."""
        with suppress(shmstate.NotPublished):
            payload: bytes = reader.read_bytes()
            return payload
        return None

    def resize(self, writer: Any, size: int) -> None:  # noqa: ARG002
        """States grow by themselves; this is ``trim()``."""
        with suppress(shmstate.NotPublished):
            writer.trim()

    def hand_over(self, writer: Any) -> None:
        """Closes the writer, and leaves the segment."""
        writer.close(unlink=False)

    def close(self, handle: Any) -> None:
        """Closes it."""
        handle.close()

    def remove(self, name: str) -> None:
        """Removes what dead writers left under the name, and what they had not given a name yet."""
        shmstate.reclaim(name)
        for file in os.listdir(SHM_DIR):
            if file.startswith(NEW_PREFIX) and not makers.maker_is_alive(file):
                with suppress(OSError):
                    ownership.remove_if_dead(os.path.join(SHM_DIR, file), None)
