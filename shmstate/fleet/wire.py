"""What gateways and those who ask them say to each other: keys, and the header that goes with every payload.

    shmstate/state/HOST/STATE     a state: it is asked for, answered and pushed under this key
    shmstate/host/HOST/GATEWAY    a gateway: the sign that it is there, the end of its answers, its pulse

Names are percent-encoded in keys, so that nothing in them means anything to the engine. Payloads are the bytes that were
published, as they are. A header is ``S``, one byte with the number of the format, and a msgpack map.

Ends of different age meet. So this much is the same in all formats: the keys, the first two bytes, and that an answer in a
format one does not know counts as an answer that cannot be read, from the host in its key. Within one format the map may
gain entries; who does not know them leaves them.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple, Type
from urllib.parse import quote, unquote

import msgpack

FORMAT = 1
_MARK = ord("S")
#: Items of an array in a header. msgpack makes room for as many as an array says it has, in each of 500 that are nested.
_LONGEST_ARRAY = 64
#: Longer headers are not read. That of a state takes some 200 bytes; a pulse some 100 for each of a host's states.
LONGEST_HEADER = 4 << 20

STATES = "shmstate/state"
HOSTS = "shmstate/host"


class Unreadable(Exception):
    """A header that is none, or not whole; the text says what was seen."""


class OtherFormat(Unreadable):
    """A header of another format."""

    def __init__(self, number: int) -> None:
        older, newer = ("that end", "this end") if number < FORMAT else ("this end", "that end")
        super().__init__(
            f"speaks wire format {number}, this end {FORMAT}: {newer} has a newer shmstate; upgrade {older}"
        )
        self.number = number


class Request(NamedTuple):
    """What goes with a query."""

    #: Bytes; larger states are to be named, not sent.
    max_payload: int


class Facts(NamedTuple):
    """What goes with a state."""

    #: Of the gateway that sends it; another each time that one is started.
    gateway: str
    #: Counts what the gateway takes from shared memory: of two answers of one gateway the higher one is newer.
    seq: int
    version: int
    #: Of the segment's line, in ns since the epoch by the host's clock. Versions of one line only go up.
    created_ns: int
    #: Since it was published, and since its writer last vouched for it, when it was sent.
    age_ns: int
    stale_ns: int
    alive: bool
    codec: str
    nbytes: int
    #: Why there is no payload; empty if there is one.
    problem: str = ""


class End(NamedTuple):
    """What a gateway says when it has answered all that it will."""

    gateway: str
    #: How many states it has answered for.
    states: int
    problem: str = ""


class Brief(NamedTuple):
    """A state in a pulse; see Facts."""

    version: int
    created_ns: int
    age_ns: int
    stale_ns: int
    alive: bool


class Pulse(NamedTuple):
    """What a gateway says of all its states now and then, so that who has missed a push notices."""

    gateway: str
    seq: int
    states: Mapping[str, Brief]


# Headers.


def pack(content: NamedTuple) -> bytes:
    """The header that says this."""
    # A named tuple within another is packed as an array, as any tuple.
    packed: bytes = msgpack.packb(content._asdict(), unicode_errors="surrogatepass")
    return bytes((_MARK, FORMAT)) + packed


def unpack(header: bytes) -> Dict[str, Any]:
    """The map of a header. Raises Unreadable, OtherFormat."""
    if len(header) < 2 or header[0] != _MARK:
        raise Unreadable(f"sends what is no header of shmstate's: {header[:16]!r}")
    if header[1] != FORMAT:
        raise OtherFormat(header[1])
    if len(header) > LONGEST_HEADER:
        raise Unreadable(f"sends a header of {len(header):,} bytes; {LONGEST_HEADER:,} are the most that are read")
    try:
        content = msgpack.unpackb(header[2:], unicode_errors="surrogatepass", max_array_len=_LONGEST_ARRAY)
    except Exception as error:
        raise Unreadable(f"sends a header that does not decode ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise Unreadable(f"sends a header that is no map but {type(content).__name__}")
    return content


def _fields(kind: Type[Any], content: Mapping[str, Any], types: Sequence[type]) -> List[Any]:
    fields = []
    for name, wanted in zip(kind._fields, types):
        value: Any = content.get(name, kind._field_defaults.get(name))
        if type(value) is not wanted:
            raise Unreadable(f"sends a header whose {name!r} is {type(value).__name__}, not {wanted.__name__}")
        if isinstance(value, int) and value < 0:
            raise Unreadable(f"sends a header whose {name!r} is {value}")
        fields.append(value)
    return fields


_FACTS = (str, int, int, int, int, int, bool, str, int, str)


def request_in(header: bytes) -> Request:
    """Raises Unreadable, as all of these do."""
    return Request(*_fields(Request, unpack(header), (int,)))


def facts_in(header: bytes) -> Facts:
    """What a header says of a state."""
    return Facts(*_fields(Facts, unpack(header), _FACTS))


def end_in(header: bytes) -> End:
    """What a header says of the end of a host's answers."""
    return End(*_fields(End, unpack(header), (str, int, str)))


def pulse_in(header: bytes) -> Pulse:
    """What a header says of all states of a host."""
    gateway, seq, states = _fields(Pulse, unpack(header), (str, int, dict))
    briefs = {}
    for name, brief in states.items():
        if not isinstance(name, str) or not isinstance(brief, list):
            raise Unreadable(f"sends a pulse in which {name!r} is {type(brief).__name__}")
        content = dict(zip(Brief._fields, brief))
        briefs[name] = Brief(*_fields(Brief, content, (int, int, int, int, bool)))
    return Pulse(gateway, seq, briefs)


# Keys.


def chunk(name: str) -> str:
    """A name as one part of a key."""
    return quote(name, safe="", errors="surrogateescape")


def name_in(part: str) -> str:
    """The inverse."""
    return unquote(part, errors="surrogateescape")


def chunks_like(pattern: str) -> str:
    """The part of a key that stands for all names that match ``pattern``, in which ``*`` is any number of characters.

    It may stand for a few more: what follows a ``*`` can look like the end of an encoded character. So who asks, and who is
    asked, look again.
    """
    if re.fullmatch(r"\*+", pattern):
        return "*"
    return "$*".join(chunk(piece) for piece in re.split(r"\*+", pattern))


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern``, as in ``chunks_like``, stands for ``name``."""
    return _is_made_of(name, pattern.split("*"))


def matches_chunk(name: str, part: str) -> bool:
    """The same of a part of a key."""
    return _is_made_of(name, [name_in(piece) for piece in part.replace("$", "").split("*")])


def _is_made_of(name: str, pieces: Sequence[str]) -> bool:
    """Whether the pieces come one after another in ``name``, with anything between them, and nothing else at the ends."""
    # The first that fits is as good as any. A regular expression would try them all: patterns come from others.
    if len(pieces) == 1:
        return name == pieces[0]
    first, *between, last = pieces
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in between:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def state_key(host: str, state: str) -> str:
    """Of one state of one host."""
    return f"{STATES}/{chunk(host)}/{chunk(state)}"


def gateway_key(host: str, gateway: str) -> str:
    """Of one gateway."""
    return f"{HOSTS}/{chunk(host)}/{gateway}"


def parts_of(key: str) -> Tuple[str, str]:
    """Host and state, or host and gateway, of a key. Raises Unreadable."""
    parts = key.split("/")
    if len(parts) != 4 or f"{parts[0]}/{parts[1]}" not in (STATES, HOSTS):
        raise Unreadable(f"answers under the key {key!r}, which is none of shmstate's")
    return name_in(parts[2]), name_in(parts[3])


def is_gateway(key: str) -> bool:
    """Whether a key is a gateway's, not a state's."""
    return key.startswith(HOSTS + "/")
