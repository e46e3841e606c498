r"""The byte map of a segment: where every word lives, and nothing that touches one.

    page 0  0    MAGIC  LAYOUT  SLOTS  STRIDE  FLAGS  CREATED  OWNER_PID  OWNER_STARTED   8 words
            64   codec name, ASCII, NUL-padded                                            32 bytes
            96   CRC-32 of what never changes: all of page 0 up to 112 but OWNER_PID and OWNER_STARTED
            104  PREDECESSOR  inode of the segment that a shared state has moved from; 0: none
            256  INTENT      version being written, or written last;    \
                             RETIRED: the state is moving, or has moved  |
            384  LATEST      version readers may take; 0: none yet       } a hot word each, two cache
            512  HEARTBEAT   CLOCK_MONOTONIC ns of the last sign of life /  lines apart (prefetch pairs)
            576  WAKE        times that sleeping readers were woken; 0: nobody wakes them
            640  slot 0: LENGTH  PUBLISHED (CLOCK_MONOTONIC ns)  CHECKSUM                 64 bytes a slot
            704  slot 1: ...
    page 1  slot 0's payload: STRIDE bytes of address space, memory only where published
            slot 1's payload, ...

Words are 64 bits in native order: a segment never leaves its machine. The file is sparse. Its size is final.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any, NamedTuple, Optional, Tuple

from shmstate.errors import CorruptSegment, InvalidName, InvalidOption
from shmstate.options import shown

SHM_DIR = "/dev/shm"
PREFIX = "shmstate."
#: Segments under construction. They carry their maker's pid and start time, so that leftovers can be told apart.
NEW_PREFIX = "shmstate-new."
#: Segments that a shared state has moved from, as long as one of its writers has not followed. See ``old_file``.
OLD_PREFIX = "shmstate-old."

PAGE = 4096
WORD = 8
MAGIC = int.from_bytes(b"shmstate", "little")
LAYOUT_VERSION = 1

# Word indices of the header page.
(AT_MAGIC, AT_LAYOUT, AT_SLOTS, AT_STRIDE, AT_FLAGS, AT_CREATED, OWNER_PID, OWNER_STARTED) = range(8)
AT_CODEC = 64 // WORD
AT_CRC = 96 // WORD
AT_PREDECESSOR = 104 // WORD
INTENT = 256 // WORD
LATEST = 384 // WORD
HEARTBEAT = 512 // WORD
WAKE = 576 // WORD
_FIRST_SLOT = 640 // WORD
_SLOT_WORDS = 64 // WORD

#: What INTENT holds once the state is on its way to another segment (S2 in protocol.py). No version comes near it.
RETIRED = 2**64 - 1

CODEC_BYTES = 32
_CODEC_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}")
FLAG_CHECKSUM = 1
#: LENGTH of a slot that was never written. It fails every bounds check, which is how a reader of LATEST = 0
#: learns that there is nothing to read without a test of its own on the fast path.
NEVER_WRITTEN = 2**64 - 1
#: LENGTH of a version that readers are not to see: its writer began afresh. It fails every bounds check as well.
WITHHELD = 2**64 - 2

MIN_SLOTS = 2
MAX_SLOTS = 32
DEFAULT_SLOTS = 4
DEFAULT_MAX_SIZE = 64 << 20
#: Larger than any memory, and far from where the sum of all slots would overflow an address.
LARGEST_MAX_SIZE = 1 << 40


class Slot(NamedTuple):
    """Where one slot lives: a byte offset for the payload, word indices for the rest."""

    start: int
    length: int
    published: int
    checksum: int


class Layout(NamedTuple):
    """The shape of a segment, fixed when it is created."""

    slots: int
    stride: int
    codec: str
    checksum: bool

    @property
    def size(self) -> int:
        """Bytes of the whole segment, nearly all of them address space only."""
        return PAGE + self.slots * self.stride

    @property
    def where(self) -> Tuple[Slot, ...]:
        """The slots in order: version ``s`` lives in ``where[s % slots]``."""
        return tuple(self._slot(index) for index in range(self.slots))

    def _slot(self, index: int) -> Slot:
        words = _FIRST_SLOT + index * _SLOT_WORDS
        return Slot(PAGE + index * self.stride, words, words + 1, words + 2)


class Identity(NamedTuple):
    """What a header page says of its segment besides the layout."""

    created_ns: int
    owner_pid: int
    owner_started: int


def file_name(name: str) -> str:
    """The file in ``/dev/shm`` that holds state ``name``.

    Raises InvalidName for what cannot be one.
    """
    if not isinstance(name, str):
        raise InvalidName(f"a state's name is a str, not {type(name).__name__}: {name!r}")
    if not name:
        raise InvalidName("a state's name cannot be empty")
    if "/" in name or not name.isprintable() or name != name.strip():
        raise InvalidName(
            f"state name {name!r}: no '/', no control characters, no spaces at the ends; try {_printable(name)!r}"
        )
    encoded = len((PREFIX + name).encode("utf-8", "surrogatepass"))
    if encoded > 255:
        raise InvalidName(
            f"state name {name[:24] + '...'!r} takes {encoded} bytes as a file name with its prefix"
            f" {PREFIX!r}; the limit is 255"
        )
    return PREFIX + name


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() and c != "/" else "_" for c in name.strip()) or "state"


def plan(*, slots: int, max_size: int, codec: str, checksum: bool) -> Layout:
    """The layout for these options, ``max_size`` (bytes a state) rounded up to whole pages.

    Raises InvalidOption.
    """
    for option, value, low, high in (
        ("slots", slots, MIN_SLOTS, MAX_SLOTS),
        ("max_size", max_size, 1, LARGEST_MAX_SIZE),
    ):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidOption(f"{option} is an int, not {type(value).__name__}: {shown(value)}")
        if not low <= value <= high:
            raise InvalidOption(f"{option}={shown(value)}: must lie between {low} and {high}")
    return Layout(slots, whole_pages(max_size), codec, checksum)


def is_codec_name(name: object) -> bool:
    """Whether ``name`` fits the header: 1 to 32 ASCII letters, digits and ``_.+-``."""
    return isinstance(name, str) and _CODEC_NAME.fullmatch(name) is not None


def whole_pages(nbytes: int) -> int:
    """``nbytes`` rounded up to pages, the unit in which memory is committed."""
    return -(-nbytes // PAGE) * PAGE


class Content(NamedTuple):
    """One published state, for the segment that it moves to."""

    version: int
    #: None: readers are not to see this version, only to count on from it.
    payload: Any
    published_ns: int
    checksum: int
    heartbeat_ns: int
    wake: int = 0


def with_room_for(layout: Layout, nbytes: int) -> Layout:
    """The layout with a reservation that a state of ``nbytes`` fits: doubled, so that growing states seldom move."""
    largest = whole_pages(LARGEST_MAX_SIZE)
    stride = layout.stride
    while stride < min(nbytes, largest):
        stride = min(2 * stride, largest)
    return layout._replace(stride=stride)


def old_file(created_ns: int, inode: int) -> str:
    """The second name of a segment that a shared state has moved from, while writers that have not followed live."""
    return f"{OLD_PREFIX}{created_ns:x}.{inode:x}"


def pack_header(layout: Layout, identity: Identity, content: Optional[Content] = None, predecessor: int = 0) -> bytes:
    """The header page of a new segment, complete: ``content`` published alone, or nothing, and no slot written."""
    page = bytearray(PAGE)
    flags = FLAG_CHECKSUM if layout.checksum else 0
    struct.pack_into("=8Q", page, 0, MAGIC, LAYOUT_VERSION, layout.slots, layout.stride, flags, *identity)
    codec = layout.codec.encode("ascii")
    page[AT_CODEC * WORD : AT_CODEC * WORD + len(codec)] = codec
    struct.pack_into("=Q", page, AT_PREDECESSOR * WORD, predecessor)
    struct.pack_into("=Q", page, AT_CRC * WORD, _crc(page))
    for slot in layout.where:
        struct.pack_into("=Q", page, slot.length * WORD, NEVER_WRITTEN)
    if content is not None:
        slot = layout.where[content.version % layout.slots]
        length = WITHHELD if content.payload is None else len(content.payload)
        struct.pack_into("=3Q", page, slot.length * WORD, length, content.published_ns, content.checksum)
        version = content.version
        hot = {INTENT: version, LATEST: version, HEARTBEAT: content.heartbeat_ns, WAKE: content.wake}
        for index, value in hot.items():
            struct.pack_into("=Q", page, index * WORD, value)
    return bytes(page)


def _crc(page: bytes) -> int:
    crc = zlib.crc32(page[AT_CODEC * WORD : AT_CRC * WORD], zlib.crc32(page[: OWNER_PID * WORD]))
    return zlib.crc32(page[AT_PREDECESSOR * WORD : (AT_PREDECESSOR + 1) * WORD], crc)


def parse_header(page: bytes, size: int, label: str) -> Tuple[Layout, Identity]:
    """Layout and identity out of a header page of a segment of ``size`` bytes.

    Raises CorruptSegment, naming ``label``, unless every field is in its range and agrees with the size.
    """
    if len(page) < PAGE:
        raise CorruptSegment(f"{label}: {size} bytes are too few to hold a header; not a shmstate segment")
    magic, version, slots, stride, flags, created, pid, started = struct.unpack_from("=8Q", page)
    if magic != MAGIC:
        raise CorruptSegment(f"{label}: starts with {page[:8]!r}, not with the magic word; not a shmstate segment")
    if version != LAYOUT_VERSION:
        raise CorruptSegment(
            f"{label}: layout version {version}, this shmstate reads {LAYOUT_VERSION}; use one release on both sides"
        )
    codec = page[AT_CODEC * WORD : AT_CODEC * WORD + CODEC_BYTES].rstrip(b"\0").decode("latin-1")
    in_range = (
        MIN_SLOTS <= slots <= MAX_SLOTS
        and 0 < stride <= whole_pages(LARGEST_MAX_SIZE)
        and stride % PAGE == 0
        and flags in (0, FLAG_CHECKSUM)
        and is_codec_name(codec)
    )
    if not in_range:
        raise CorruptSegment(
            f"{label}: slots={slots}, stride={stride}, flags={flags}, codec={codec!r} are out of range;"
            f" the header was overwritten"
        )
    (crc,) = struct.unpack_from("=Q", page, AT_CRC * WORD)
    if crc != _crc(page):
        raise CorruptSegment(f"{label}: its header's checksum differs; the header was overwritten")
    layout = Layout(slots, stride, codec, bool(flags & FLAG_CHECKSUM))
    if layout.size != size:
        raise CorruptSegment(f"{label}: is {size} bytes, its header says {layout.size}; it was truncated or extended")
    return layout, Identity(created, pid, started)


def parse_predecessor(page: bytes) -> Tuple[int, int]:
    """CREATED and PREDECESSOR out of a header page; zeros if it is none."""
    if len(page) < PAGE:
        return 0, 0
    (created,) = struct.unpack_from("=Q", page, AT_CREATED * WORD)
    (inode,) = struct.unpack_from("=Q", page, AT_PREDECESSOR * WORD)
    return created, inode
