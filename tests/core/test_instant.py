from __future__ import annotations

from typing import Callable, Iterator, List, Optional, Tuple

import pytest

from shmstate import Encoded, InvalidOption, NotPublished, StateReader, StateWriter, instant, snapshot


class Watched(StateReader):
    """A reader that tells before each of its accesses."""

    before: Optional[Callable[[], None]] = None

    def read_encoded(self) -> Encoded:
        if self.before is not None:
            self.before()
        return super().read_encoded()

    @property
    def version(self) -> int:
        if self.before is not None:
            self.before()
        return super().version


class Pair:
    """Two states that one process publishes in turn, always with the same number: first, second, first, ..."""

    def __init__(self, name: str) -> None:
        self.writers = [StateWriter(f"{name}-{place}", codec="json") for place in range(2)]
        self.readers = [Watched(writer.name) for writer in self.writers]
        self.steps = 0
        self.step(2)

    def step(self, times: int) -> None:
        for _ in range(times):
            self.writers[self.steps % 2].publish(self.steps // 2)
            self.steps += 1

    def interrupt_before(self, place: int, steps: int) -> None:
        """Publish so many times in between, before the access of that number."""
        left = [place]

        def count() -> None:
            left[0] -= 1
            if left[0] == -1:
                self.step(steps)

        for reader in self.readers:
            reader.before = count

    def close(self) -> None:
        for handle in (*self.readers, *self.writers):
            handle.close()


@pytest.fixture
def pair(name: str) -> Iterator[Pair]:
    pair = Pair(name)
    yield pair
    pair.close()


def test_states_that_rest_are_read_in_one_sweep(pair: Pair) -> None:
    found = snapshot(pair.readers)

    assert [one.value for one in found.snapshots] == [0, 0]
    assert [one.version for one in found.snapshots] == [1, 1]
    assert (found.together, found.sweeps) == (True, 1)


def at_each_access(pair: Pair, read: Callable[[], instant.Instant]) -> Iterator[Tuple[List[int], bool, int]]:
    """Both values, with one interruption of 0 to 3 publishes before any access."""
    for place in range(8):
        for steps in range(4):
            pair.interrupt_before(place, steps)
            found = read()
            yield [int(one.value) for one in found.snapshots], found.together, found.sweeps
            pair.step(pair.steps % 2)


def were_together(values: List[int]) -> bool:
    first, second = values
    return first - second in (0, 1)


@pytest.mark.parametrize("backwards", [False, True])
def test_what_is_said_to_be_together_was_so_whatever_is_published_in_between(pair: Pair, backwards: bool) -> None:
    def read() -> instant.Instant:
        found = snapshot(pair.readers[::-1] if backwards else pair.readers)
        return found._replace(snapshots=found.snapshots[::-1]) if backwards else found

    found = list(at_each_access(pair, read))

    assert all(were_together(values) for values, together, _ in found if together)
    assert all(together for _, together, _ in found)
    assert max(sweeps for _, _, sweeps in found) > 1, "nothing ever got in the way, so nothing was shown"


def test_the_same_without_looking_twice_would_be_noticed(pair: Pair) -> None:
    def read_once() -> instant.Instant:
        return instant.Instant(tuple(reader.read() for reader in pair.readers[::-1])[::-1], True, 1)

    assert not all(were_together(values) for values, _, _ in at_each_access(pair, read_once))


def test_writers_that_never_rest_are_said_so_after_the_sweeps(pair: Pair) -> None:
    for reader in pair.readers:
        reader.before = lambda: pair.step(2)

    found = snapshot(pair.readers, sweeps=5)

    assert (found.together, found.sweeps) == (False, 5)
    assert [one.value for one in found.snapshots] == [one.version - 1 for one in found.snapshots]


def test_only_what_moved_is_read_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: List[str] = []
    read_encoded = StateReader.read_encoded

    def counted(reader: StateReader) -> object:
        reads.append(reader.name[-1])
        return read_encoded(reader)

    monkeypatch.setattr(StateReader, "read_encoded", counted)
    pair.interrupt_before(2, 1)

    assert snapshot(pair.readers).together
    assert reads == ["0", "1", "0"]


def test_what_moved_is_decoded_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: List[int] = []
    decode = StateReader.decode

    def counted(reader: StateReader, encoded: object) -> object:
        decoded.append(1)
        return decode(reader, encoded)  # type: ignore[arg-type]

    monkeypatch.setattr(StateReader, "decode", counted)
    pair.interrupt_before(2, 3)

    snapshot(pair.readers)

    assert len(decoded) == 2


def test_no_readers_are_together(pair: Pair) -> None:
    assert snapshot([]) == ((), True, 1)


def test_a_state_that_is_not_published_is_told(name: str) -> None:
    with StateWriter(name), StateReader(name) as reader, pytest.raises(NotPublished, match=name):
        snapshot([reader])


@pytest.mark.parametrize("sweeps", [0, -1])
def test_no_sweeps_are_an_invalid_option(sweeps: int) -> None:
    with pytest.raises(InvalidOption, match=f"sweeps={sweeps}: a whole number, 1 to "):
        snapshot([], sweeps=sweeps)
