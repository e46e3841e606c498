"""The other side: gateways in processes of their own, sessions that keep to no protocol, and writers."""

from __future__ import annotations

import json
import os
import signal
import zlib
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import shmstate
from shmstate.fleet import FleetQuery, Gateway, Replies, wire
from tests.core.children import PATIENCE, say, until, wait_for_the_test

#: Of one who takes all there is.
REQUEST = wire.pack(wire.Request(1 << 30))


# In children.


def answer(endpoint: str, host: str, options: str = "{}") -> None:
    """Be a host's gateway until the test says something or is gone."""
    with Gateway(host, listen=[endpoint], **json.loads(options)) as gateway:
        say(gateway.id)
        wait_for_the_test()
    say("closed")


def publish_certified_without_rest(name: str) -> None:
    """States of many sizes, each with its number and a checksum, as fast as can be."""
    with shmstate.StateWriter(name, codec="raw", slots=3) as writer:
        say("ready")
        number = 0
        while os.getppid() != 1:
            number += 1
            writer.publish(certified(number))


def certified(number: int) -> bytes:
    """A payload that tells whether it is whole."""
    body = number.to_bytes(8, "big") * (1 + number * 7919 % 2000)
    return zlib.crc32(body).to_bytes(4, "big") + body


def number_in(payload: bytes) -> int:
    """The number of such a payload, which must be whole."""
    assert zlib.crc32(payload[4:]) == int.from_bytes(payload[:4], "big")
    assert payload[4:] == payload[4:12] * (len(payload[4:]) // 8)
    return int.from_bytes(payload[4:12], "big")


def ask_and_stop(endpoint: str, state: str, times: str) -> None:
    """Ask for a state that often, once the test says so, and stop before an answer is taken."""
    with session(connect=[endpoint]) as asking:
        until(asking.info.links)
        say("ready")
        wait_for_the_test()
        for _ in range(int(times)):
            asking.get(f"{wire.STATES}/*/{state}", lambda _: None, attachment=REQUEST, timeout=PATIENCE)
        os.kill(os.getpid(), signal.SIGSTOP)


# Sessions that do as they like.


@contextmanager
def session(listen: Sequence[str] = (), connect: Sequence[str] = (), **more: Any) -> Iterator[Any]:
    """One of zenoh's, as it comes but for where it is."""
    import zenoh

    alone = {"multicast": {"enabled": False}, "gossip": {"enabled": False}}
    places = {"listen": {"endpoints": list(listen)}, "connect": {"endpoints": list(connect)}}
    config = {"mode": "peer", **places, "scouting": alone, **more}
    if "transport" not in more:
        config["transport"] = {"shared_memory": {"enabled": False}}
    with zenoh.open(zenoh.Config.from_json5(json.dumps(config))) as opened:
        yield opened


def directly(function: Callable[[Any], object]) -> Any:
    """A handler that calls it in the engine's own thread."""
    import zenoh

    return zenoh.handlers.Callback(function, indirect=False)


def said_to(asking: Any, key: str, attachment: Optional[bytes]) -> List[bytes]:
    """Ask as one likes; the headers that come."""
    return [header for _, header in sent_to(asking, key, attachment)]


def sent_to(asking: Any, key: str, attachment: Optional[bytes], timeout: float = PATIENCE) -> List[Tuple[str, bytes]]:
    """The same, with the keys that they came under."""
    import zenoh

    replies = asking.get(
        *(key,),
        attachment=attachment,
        timeout=timeout,
        accept_replies=zenoh.ReplyKeyExpr.ANY,
        consolidation=zenoh.ConsolidationMode.NONE,
    )
    samples = [reply.ok for reply in replies if reply.ok is not None]
    return [(str(sample.key_expr), sample.attachment.to_bytes()) for sample in samples]


# Waiting.


def once(query: FleetQuery, condition: Callable[[Replies], object]) -> Replies:
    """The first replies of which the condition holds."""
    seen = [query.ask()]

    def holds() -> object:
        seen.append(query.ask())
        return condition(seen[-1])

    if not condition(seen[0]):
        until(holds, name="such replies")
    return seen[-1]
