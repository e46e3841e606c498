"""What the processes of a stress run do: publish and read at full speed, write it down, obey orders in between.

Each has a pipe to the driver. It is asked for orders now and then only, as that costs more than many an operation.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, List, NamedTuple, Sequence, Tuple

from pytest_shmstate.kit.oracle.history import PUBLISH, READ
from pytest_shmstate.kit.oracle.logs import Log, LogFull, now
from pytest_shmstate.kit.oracle.payload import payload_of, version_in, what_is_wrong_with
from pytest_shmstate.kit.seams.adapter import Adapter
from pytest_shmstate.worker_body import ready

#: Orders: begin (a writer: to create, then to publish), make room for states of so many bytes, leave the structure to another, let go of it.
GO, RESIZE, HAND_OVER, END = "go", "resize", "hand over", "end"
#: Reports: the writer's side is there; it was resized.
CREATED, RESIZED = "created", "resized"
#: What has a process write down where it is.
TELL_STACKS = signal.SIGUSR1
STACKS = ".stacks"

_OPERATIONS_BETWEEN_ORDERS = 16
_READS_OF_ONE_ATTACHMENT = (20, 2000)
_MOST_OF_A_WORD = 2**63


class Post(NamedTuple):
    """What one process of a run is there for."""

    process: str
    adapter: Adapter
    #: Of the structure.
    name: str
    #: For its log.
    folder: str
    room: int
    sizes: Sequence[int]
    seed: int
    #: The first version that a writer publishes.
    first: int


class _Wrong(Exception):
    """An operation raised what its documentation does not speak of. It is in the log."""


def write(post: Post, orders: Connection) -> None:
    """A writer: create, publish one version after the other, until the order to end, or the kill."""
    with _set_up(post, keeps=True) as log:
        if _next_order(orders)[0] != GO:
            return
        writer = post.adapter.create(post.name, max(post.sizes))
        orders.send((CREATED,))
        order = _next_order(orders)[0]
        with suppress(_Wrong):
            if order == GO:
                order = _publish_until_told(post, log, writer, orders)
            if order == HAND_OVER:
                post.adapter.hand_over(writer)
                return
        post.adapter.close(writer)


def read(post: Post, orders: Connection) -> int:
    """A reader: attach, read for a while, detach, again and again. Returns how often."""
    draw = random.Random(post.seed)  # noqa: S311  # a choice, no secret
    attached = 0
    with _set_up(post, keeps=False) as log:
        order = _next_order(orders)[0]
        while order == GO:
            reader = post.adapter.attach(post.name)
            attached += 1
            try:
                for number in range(draw.randint(*_READS_OF_ONE_ATTACHMENT)):
                    _read_once(post, log, reader)
                    if number % _OPERATIONS_BETWEEN_ORDERS == 0 and orders.poll(0):
                        order = _next_order(orders)[0]
                        break
            except _Wrong:
                order = END
            post.adapter.close(reader)
    return attached


_told_to: List[Any] = []  # a file that stays open as long as the process


def _set_up(post: Post, keeps: bool) -> Log:
    _told_to.append(open(os.path.join(post.folder, post.process + STACKS), "w", encoding="utf-8"))  # noqa: SIM115
    faulthandler.register(TELL_STACKS, file=_told_to[-1], all_threads=True)
    log = Log(post.folder, post.process, post.room, keeps=keeps)
    ready()
    return log


def _next_order(orders: Connection) -> Tuple[Any, ...]:
    try:
        order: Tuple[Any, ...] = orders.recv()
    except EOFError:
        return (END,)
    return order


def _publish_until_told(post: Post, log: Log, writer: Any, orders: Connection) -> str:
    draw = random.Random(post.seed)  # noqa: S311  # a choice, no secret
    version = post.first
    while True:
        with suppress(LogFull):  # then there is nothing left but to wait for orders
            while not orders.poll(0):
                for _ in range(_OPERATIONS_BETWEEN_ORDERS):
                    _publish_once(post, log, writer, version, draw.choice(post.sizes))
                    version += 1
        order = _next_order(orders)
        if order[0] != RESIZE:
            return str(order[0])
        post.adapter.resize(writer, order[1])
        orders.send((RESIZED,))


def _publish_once(post: Post, log: Log, writer: Any, version: int, size: int) -> None:
    payload = payload_of(version, size)
    log.begin(PUBLISH, version)
    try:
        rank = post.adapter.publish(writer, payload)
    except post.adapter.refusals as error:
        log.end(now(), version, error=_named(error))
    except Exception as error:
        log.end(now(), version, problem=f"it raised {_named(error)}")
        raise _Wrong from error
    else:
        log.end(now(), version, rank or 0)


def _read_once(post: Post, log: Log, reader: Any) -> None:
    log.begin(READ)
    try:
        payload = post.adapter.read(reader)
    except post.adapter.refusals as error:
        log.end(now(), error=_named(error))
    except Exception as error:
        log.end(now(), problem=f"it raised {_named(error)}")
        raise _Wrong from error
    else:
        ended = now()
        if payload is None:
            log.end(ended)
            return
        version = version_in(payload)
        # A torn beginning may say anything; what is no version at all does not fit the log.
        log.end(ended, version if version < _MOST_OF_A_WORD else -1, problem=what_is_wrong_with(payload))


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
