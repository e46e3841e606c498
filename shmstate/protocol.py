"""Publish and snapshot: how one writer and any number of readers share a segment without a lock. The argument.

    writer of version s = LATEST + 1                     reader
        fence
    W1  INTENT = s                                       R1  s = LATEST
        fence                                                fence
    W2  payload, LENGTH, PUBLISHED, CHECKSUM             R2  LENGTH, ... of slot s % K; LENGTH checked
        of slot s % K                                    R3  copy LENGTH bytes
        fence                                                fence
    W3  LATEST = s                                       R4  INTENT - s < K: the copy is whole. Otherwise again
                                                             then, and only then, decode the copy

Without a copy, a view hands out the bytes of slot s % K themselves, after R1 and R2; R4 may be asked at any time then,
and answers for everything that was read before it. An older version s is read by the same steps, R1 being LATEST >= s.

A state that needs more room, less memory or another layout moves to a new segment, its successor:

    S1  build a segment that has no name yet, locked (ownership.py), with one version published in it: LATEST + 1
        where a publish moves the state, LATEST itself where nothing is published
    S2  INTENT = RETIRED, in the old segment: greater than any version, so every R4 fails there
    S3  give the name to the successor (``rename``): at this moment its version is published

    R5  a reader that finds INTENT = RETIRED asks where the name leads: to a successor, and it goes on there with R1;
        or here still, when the writer is between S2 and S3 or ended there: R4 is then LATEST - s < K - 1

Readers may sleep until a state changes, if its writer wakes them (WAKE > 0):

    W4  WAKE = WAKE + 1, after W3, and after S3 in the old segment; then wake all who sleep on it
    R6  c = WAKE; fence; if LATEST is still old and the state has not moved: sleep while WAKE is c

INTENT and LATEST are 64-bit words, stored and loaded whole. Versions start at 1 and are never reused or wrapped.
The fences are needed where the machine reorders stores with stores or loads with loads; x86-64 does not. That before W1
keeps nothing from tearing: without it INTENT could be seen two ahead of LATEST, and K = 2 taken for corrupted by I6.

I1  LATEST never decreases: only the one owner stores it (ownership.py), each time one more than it was. In a successor
    it begins where it was, or one higher.
I2  A snapshot is one whole published payload. When R1 loads s, all of version s was stored before (W2 before W3, and
    the first fence of each side keeps it so). What could spoil the copy is a later tenant of the slot: version s + K
    or later. Its W1 comes before its first byte, so if R3 met one such byte, R4 comes after that W1 and loads
    INTENT >= s + K (RETIRED is greater too). Hence INTENT - s < K says that R3 met none. For the same reason slot
    s % K holds version s from its W3 to the W1 of version s + K, and K - 1 versions can be read at any time.
I3  A reader never goes back: R1 loads one word that never decreases, or that of a successor (I8).
I4  Nobody waits for readers: a writer does not look at them, and they store nothing. Their maps are read-only.
I5  A writer that dies between any two steps leaves LATEST and its slot whole: version s lies in another slot than
    version s + 1, as K >= 2. The next owner publishes s + 1 anew, into the same slot, under the same INTENT; if it
    finds RETIRED, its W1 ends that.
I6  Every read ends: a bounded number of tries, then ReadTimeout; or CorruptSegment if LATEST has not moved meanwhile, for
    then no writer can have spoilt a try: INTENT is at most one ahead. Every publish ends: it moves once at most.
I7  No store and no load can fault: memory is committed (before W1) for all that W2 stores, and LENGTH, bounds-checked,
    never says more than was committed. Nothing committed is ever given back: to free memory, the state moves.
I8  A move loses nothing, and nobody reads an older version after it. Between S2 and S3 the name leads to the old
    segment, whose latest version is the state's. It is whole, though RETIRED hides the W1 that R4 looks for: version
    s + K is begun after the W3 of s + K - 1, so if R3 met one of its bytes, LATEST >= s + K - 1 is loaded afterwards.
    From S3 on nobody stores into the old segment any more: its owner has left it, and no other adopts what the name
    does not lead to. RETIRED stays, so every read there comes to R5 and goes to the successor, which holds all
    that was published. A name that leads to a segment of another line (its CREATED differs: the state was closed and
    made anew) is not followed: its versions start over.

I9  No wake-up is lost: a publish that R6 does not see has its W3 after the load of LATEST, so its W4 after the load of
    WAKE, which the kernel compares once more before it lets anybody sleep. (A writer that is killed between W3 and W4
    wakes nobody; no sleep is longer than a moment, waiting.py.)

K = 2 is a double buffer. It is right, and it starves readers of large states: the writer must only begin one
publish during the copy to spoil it. With K slots it must get through K - 2 more.

The steps themselves: publishing.py (W, S) and reading.py (R).
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, NoReturn, Optional, Protocol

from shmstate.layout import Content, Layout


class Memory(Protocol):
    """What the protocol asks of a segment; ``memory.Segment`` has it, and a test may hand over its own."""

    words: Any
    data: Any
    view: Any
    weak: bool
    clock: Callable[[], int]
    give_way: Callable[[], object]

    @property
    def layout(self) -> Layout:
        """Its shape."""

    def bell(self, words: Any, index: int) -> Callable[[], object]:
        """What wakes all who sleep on a word."""

    def doze(self, words: Any, index: int, expected: int, seconds: float) -> bool:
        """Sleep while a word is as expected, so long at most. False if that cannot be done here."""

    def fence(self) -> None:
        """Order all earlier loads and stores before all later ones, where the machine would not."""

    def at_close(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` run before the bytes go away."""


class Title(Protocol):
    """What publishing asks of whoever owns the state; ``title.Title`` has it, ``title.SharedTitle`` the last three."""

    shared: bool

    @property
    def segment(self) -> Memory:
        """What is owned."""

    def commit(self, start: int, nbytes: int) -> None:
        """Put memory behind ``nbytes`` from ``start``, or raise."""

    def is_named(self) -> bool:
        """Whether the name leads to what is owned; False if it leads to nothing. Raises if it leads elsewhere."""

    def prepare(self, layout: Layout, content: Optional[Content]) -> None:
        """S1. Raises, and nothing has changed."""

    def take_name(self) -> None:
        """S3."""

    def settle(self) -> None:
        """Own what was prepared if the name leads to it; throw it away otherwise."""

    def take_turn(self) -> None:
        """Wait for those who own the state as well."""

    def end_turn(self) -> None:
        """Let them publish."""

    def follow(self) -> bool:
        """Own the segment that another has moved the state to, without the turn. False if it is where it was."""


class Place(Protocol):
    """What reading asks of whoever attached the state; ``attachment.Attachment`` has it."""

    @property
    def segment(self) -> Memory:
        """What is attached."""

    def successor(self, words: Any, bind: Callable[[Any], Any]) -> Any:
        """R5: ``bind`` of the segment that the state has moved to from that of these words; None if it has not moved.

        Called by many threads. Each successor is bound once, and is not adopted if that raises.
        """


Encode = Callable[[Any], Any]
Refuse = Callable[[Any, Exception], Exception]
Publish = Callable[[Any], int]


class Publishing(NamedTuple):
    """A writer's side of one state.

    ``through(encode, refuse)`` makes a ``publish(value)`` that returns the version. ``encode(value)`` must return bytes
    or a contiguous view of single bytes; what it raises becomes ``refuse(value, error)``.
    ``lend(nbytes, to)`` begins a publish whose payload is filled in place, and returns where, or None if there is no such
    place now. No other thread or process publishes until ``take_back(nbytes)``, or ``take_back(None)`` which drops it, or
    ``drop(to)``, which may be called at any time.
    ``close(give_up)`` calls ``give_up()`` in the turn, or when the publish of this thread that is under way has ended.
    ``finish(give_up)`` does so at the end of the process, when a thread that has the turn may never end it.
    ``beat()`` says that the last state is still current. ``move(choose)`` moves it, as it is. ``hide(check)`` moves it so that
    readers have nothing until the next publish, whose version is the next.
    """

    through: Callable[[Encode, Refuse], Publish]
    lend: Callable[[int, object], Optional[memoryview]]
    take_back: Callable[[Optional[int]], int]
    drop: Callable[[object], None]
    move: Callable[[Callable[[int], Layout]], None]
    hide: Callable[[Callable[[], None]], None]
    beat: Callable[[], None]
    latest: Callable[[], int]
    close: Callable[[Callable[[], None]], None]
    finish: Callable[[Callable[[], None]], None]
    retire: Callable[[Callable[[], Exception]], None]


class Retired:
    """Takes the place of a closed segment's words: whoever still holds a closure gets the error that says so."""

    def __init__(self, error: Any) -> None:
        self._error = error

    def __getitem__(self, index: Any) -> NoReturn:
        raise self._error()

    def __setitem__(self, index: int, value: int) -> NoReturn:
        raise self._error()

    @property
    def obj(self) -> NoReturn:
        """The bytes behind a memoryview, which are gone."""
        raise self._error()
