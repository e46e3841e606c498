from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Callable

import pytest

from shmstate import (
    CorruptSegment,
    InvalidName,
    OutOfSharedMemory,
    StateNotFound,
    StateReader,
    StateWriter,
    SystemRefused,
    memory,
)
from shmstate.layout import PAGE, SHM_DIR, Identity, parse_header, plan
from tests.core import children
from tests.core.children import ROOT, python, run

MIB = 1 << 20


def refuse(error: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    return call


def test_the_path_of_a_state_lies_in_shared_memory() -> None:
    assert memory.path_of("worker-1") == "/dev/shm/shmstate.worker-1"


def test_a_name_that_cannot_be_a_file_has_no_path() -> None:
    with pytest.raises(InvalidName):
        memory.path_of("a/b")


# What a segment costs.


def test_only_what_was_published_has_memory_behind_it(name: str) -> None:
    with StateWriter(name, codec="raw", max_size=1 << 30) as writer:
        at_first = writer._segment.committed()
        writer.publish(b"x" * PAGE)

        assert at_first == PAGE
        assert writer._segment.committed() == 2 * PAGE
        assert os.path.getsize(memory.path_of(name)) == PAGE + 4 * (1 << 30)


def test_memory_is_committed_before_it_is_written(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with StateWriter(name, codec="raw") as writer:
        writer.publish(b"x")
        asked = []
        fallocate = os.posix_fallocate

        def listen(fd: int, start: int, nbytes: int) -> None:
            asked.append((start, nbytes))
            fallocate(fd, start, nbytes)

        monkeypatch.setattr(os, "posix_fallocate", listen)
        writer.publish(bytes(MIB))

        assert asked == [(writer._segment.layout.where[2].start, MIB)]
        assert writer._segment.committed() >= MIB


def test_a_handle_keeps_one_descriptor_before_python_3_13_and_none_after(name: str) -> None:
    each = 0 if sys.version_info >= (3, 13) else 1

    done = run(children.count_descriptors, name)

    assert done == (0, f"{10 * each} {10 * each}\n0\n", "")


def test_the_memory_of_a_file_that_is_gone_or_another_is_not_counted(name: str) -> None:
    with StateWriter(name) as writer:
        os.unlink(memory.path_of(name))
        assert writer._segment.committed() == 0

        with StateWriter(name) as other:
            assert writer._segment.committed() == 0
            assert other._segment.committed() == PAGE


# No room.


def can_mount() -> bool:
    try:
        return not subprocess.call(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", SHM_DIR], stderr=subprocess.DEVNULL
        )
    except OSError:
        return False


@pytest.mark.skipif(not can_mount(), reason="only root can mount a small /dev/shm for the test")
def test_a_full_shared_memory_is_an_error_and_the_last_state_stands() -> None:
    command = python(children.fill_shared_memory, "full")
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'

    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *command], cwd=ROOT, capture_output=True, timeout=60, check=False
    )

    growth, still, smaller, creation, smallest, left = done.stdout.decode().splitlines()
    assert growth.startswith("growth: state 'full': needs 2097152 more bytes in /dev/shm, which has ")
    assert " free of 1048576 (No space left on device); nothing was published." in growth
    assert "`shmstate reclaim`" in growth
    assert still == "b'small' 1"
    assert smaller == "2 b'smaller'"
    assert creation.startswith("creation: state 'full-other': needs 4096 more bytes in /dev/shm, which has 0 free")
    assert smallest == "3 True"
    assert left == "['ballast']"
    assert (done.returncode, done.stderr.decode()) == (0, "")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG], ids=os.strerror)
def test_growth_without_room_publishes_nothing_and_smaller_states_go_on(
    monkeypatch: pytest.MonkeyPatch, name: str, error: int
) -> None:
    with StateWriter(name, codec="raw", slots=2) as writer, StateReader(name) as reader:
        writer.publish(b"1")
        writer.publish(b"2")
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", refuse(error))

            with pytest.raises(OutOfSharedMemory, match=f"'{name}': needs 1048576 more bytes.*nothing was published"):
                writer.publish(bytes(MIB))

        assert (reader.get(), reader.version) == (b"2", 2)
        assert writer.publish(b"3") == 3
        assert writer.publish(bytes(MIB)) == 4
        assert len(reader.get()) == MIB


def test_creation_without_room_leaves_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse(errno.ENOSPC))

        with pytest.raises(OutOfSharedMemory, match=f"'{name}'"):
            StateWriter(name)

    assert not os.path.exists(memory.path_of(name))


def test_another_error_of_the_system_is_not_taken_for_a_lack_of_room(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse(errno.EIO))

        with pytest.raises(SystemRefused, match="EIO: Input/output error"):
            StateWriter(name)


def test_more_address_space_than_there_is_asks_for_less_and_leaves_nothing(name: str) -> None:
    with StateWriter(name, max_size=1 << 32):
        done = run(children.run_out_of_address_space, name)

    written, read, left = done.out.splitlines()
    assert written.startswith(f"state '{name}-new': cannot reserve 16384 MiB of address space in /dev/shm")
    assert written.endswith("ask for a smaller max_size")
    assert read.startswith(f"state '{name}': no room to map its 16384 MiB of address space")
    assert (left, done.code, done.err) == ("[]", 0, "")


# A file that is gone.


def test_a_writer_whose_file_was_replaced_publishes_no_more_and_says_so(name: str) -> None:
    with StateWriter(name, codec="raw", slots=2) as writer:
        writer.publish(b"1")
        writer.publish(b"2")
        os.unlink(memory.path_of(name))
        with open(memory.path_of(name), "wb"):
            pass

        with pytest.raises(StateNotFound, match=f"'{name}': {memory.path_of(name)} was replaced by another program"):
            writer.publish(bytes(MIB))
        assert os.path.getsize(memory.path_of(name)) == 0
        os.unlink(memory.path_of(name))


# Access.


def test_a_readers_map_cannot_be_written_through(name: str) -> None:
    with StateWriter(name) as writer:
        writer.publish(1)
        with StateReader(name) as reader:
            segment = reader._segment

            with pytest.raises(TypeError):
                segment.words[0] = 1
            with pytest.raises(TypeError):
                segment.data[0:1] = b"x"
            with pytest.raises(TypeError):
                segment.view[0:1] = b"x"


def test_words_are_whole_and_in_native_order(name: str) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer._segment.words[500] = 2**64 - 2

        assert reader._segment.words[500] == 2**64 - 2
        assert reader._segment.data[4000:4008] == (2**64 - 2).to_bytes(8, sys.byteorder)


def test_a_fence_returns_and_leaves_its_lock_free(name: str) -> None:
    with StateWriter(name) as writer:
        writer._segment.fence()
        writer._segment.fence()

    assert not memory._fence.locked()


def test_what_was_to_happen_at_close_happens_once_and_before_the_bytes_go(name: str) -> None:
    seen = []
    writer = StateWriter(name)
    segment = writer._segment
    segment.at_close(lambda: seen.append(segment.words[0]))

    writer.close()
    segment.close()

    assert len(seen) == 1
    assert not segment.is_open


def test_a_missing_state_is_named_with_its_path_and_what_to_do(name: str) -> None:
    with pytest.raises(StateNotFound, match=f"no state '{name}': {memory.path_of(name)} does not exist.*timeout="):
        memory.attach(name)


def test_attaching_keeps_no_descriptor_of_its_own_when_it_fails(name: str) -> None:
    with open(memory.path_of(name), "wb") as file:
        file.write(b"x" * 100)
    before = children.descriptors_before()

    for _ in range(5):
        with pytest.raises(CorruptSegment):
            memory.attach(name)
        with pytest.raises(CorruptSegment):
            StateWriter(name)

    os.unlink(memory.path_of(name))
    assert children.open_descriptors() == before


def test_a_built_segment_holds_its_header_and_nothing_published(name: str) -> None:
    layout = plan(slots=2, max_size=1, codec="raw", checksum=True)
    path = os.path.join(SHM_DIR, f"shmstate-new.{os.getpid()}.1.{name}")

    fd = memory.build(path, layout, Identity(1, 2, 3), "label")
    try:
        assert parse_header(os.pread(fd, PAGE, 0), layout.size, "") == (layout, (1, 2, 3))
    finally:
        os.close(fd)
        os.unlink(path)
