"""System calls that fail: each error is typed and names the remedy, nothing is left behind, and the last state stands."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
from typing import Any, Callable, Dict, Iterator, List

import pytest

import shmstate
from shmstate import (
    AccessDenied,
    OutOfSharedMemory,
    ShmStateError,
    StateReader,
    StateWriter,
    SystemRefused,
    makers,
    memory,
    ownership,
)
from shmstate.layout import NEW_PREFIX, SHM_DIR

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop privileges")

REFUSALS = {
    errno.EMFILE: (SystemRefused, "ulimit -n"),
    errno.ENFILE: (SystemRefused, "fs.file-max"),
    errno.EACCES: (AccessDenied, "run as the user that owns"),
    errno.EPERM: (AccessDenied, "run as the user that owns"),
    errno.EROFS: (AccessDenied, "remount"),
    errno.ENOSPC: (OutOfSharedMemory, ""),
    errno.ENOMEM: (ShmStateError, ""),
    errno.ENOLCK: (SystemRefused, "ulimit -x"),
    errno.EIO: (SystemRefused, "EIO"),
}
CALLS = ("open", "stat", "fstat", "link", "rename", "unlink", "dup", "pwrite", "pread", "posix_fallocate", "listdir")


def _grow(writer: StateWriter) -> None:
    writer.publish("x" * (3 << 20))


def _trim(writer: StateWriter) -> None:
    writer.trim()


def _close(writer: StateWriter) -> None:
    writer.close()


def _open_another(writer: StateWriter) -> None:
    StateWriter(f"{writer.name}-b").close()


def _open_a_shared_one(writer: StateWriter) -> None:
    StateWriter(f"{writer.name}-b", shared=True).close()


def _read(writer: StateWriter) -> None:
    with StateReader(writer.name) as reader:
        reader.get()


def _ask(writer: StateWriter) -> None:
    shmstate.list_states(writer.name)


def _reclaim(writer: StateWriter) -> None:
    shmstate.reclaim(writer.name)


OPERATIONS: List[Callable[[StateWriter], None]] = [
    _grow, _trim, _close, _open_another, _open_a_shared_one, _read, _ask, _reclaim,
]  # fmt: skip


def _drafts() -> List[str]:
    return [file for file in os.listdir(SHM_DIR) if file.startswith(f"{NEW_PREFIX}{os.getpid()}.")]


class _Failing:
    """Fails the n-th call of one function that concerns shared memory, and no other."""

    def __init__(self, real: Callable[..., Any], number: int, nth: int) -> None:
        self.real, self.number, self.left, self.failed = real, number, nth, False

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left == 0:
            self.failed = True
            self.left = -1
            raise OSError(self.number, os.strerror(self.number))
        self.left -= 1
        return self.real(*arguments, **options)


@pytest.mark.parametrize("call", [*CALLS, "flock", "fcntl", "map"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__[1:])
def test_a_call_that_fails_gives_a_typed_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, name: str, operation: Callable[[StateWriter], None], call: str
) -> None:
    module, function = {"flock": (fcntl, "flock"), "fcntl": (fcntl, "fcntl"), "map": (memory, "map_shared")}.get(
        call, (os, call)
    )
    for number, (kind, remedy) in REFUSALS.items():
        for nth in range(20):
            failing = _Failing(getattr(module, function), number, nth)
            with StateWriter(name, max_size=1 << 20) as writer, StateReader(name) as reader:
                writer.publish("the last")
                with monkeypatch.context() as patched:
                    patched.setattr(module, function, failing)
                    error = None
                    try:
                        operation(writer)
                    except ShmStateError as raised:
                        error = raised
                # Where the name leads could not be told at the end of a move: it has been published then.
                assert reader.get() == "the last" or error is None or (operation is _grow and call == "stat")
                assert _drafts() == []
            if error is not None and not isinstance(error, shmstate.UntrustedSegment):
                assert isinstance(error, kind), (errno.errorcode[number], error)
                assert remedy in str(error)
            for left in (name, f"{name}-b"):
                if os.path.exists(memory.path_of(left)):
                    assert call in ("unlink", "stat", "open", "fstat", "fcntl", "flock", "pread"), left
                    os.unlink(memory.path_of(left))
            if not failing.failed:
                break


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
def test_a_writer_of_which_nothing_can_be_told_is_not_dead(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", _always(number))
            with pytest.raises(SystemRefused, match="whether its writer is alive cannot be told"):
                reader.writer_alive  # noqa: B018
            with pytest.raises(SystemRefused):
                reader.wait(after=1, timeout=5)
        assert ownership.is_owned(memory.path_of(name), reader._segment.inode)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EACCES])
def test_a_writer_without_a_name_of_which_nothing_can_be_told_is_not_dead(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        os.unlink(memory.path_of(name))
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", _always(number))
            patched.setattr("builtins.open", _always(number))
            with pytest.raises(SystemRefused, match="runs cannot be told"):
                reader.writer_alive  # noqa: B018
        assert reader.writer_alive


def test_a_limit_on_the_size_of_files_is_named(name: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutOfSharedMemory, match="ulimit -f"):
            StateWriter(name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("use", [StateReader, StateWriter])
def test_a_folder_that_may_not_be_searched_is_access_denied(
    monkeypatch: pytest.MonkeyPatch, name: str, use: Callable[..., Any]
) -> None:
    for call in ("open", "stat"):
        look = getattr(os, call)

        def refuse(path: Any, *rest: Any, look: Any = look, **options: Any) -> Any:
            if name in str(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return look(path, *rest, **options)

        monkeypatch.setattr(os, call, refuse)
    with pytest.raises(AccessDenied, match=f"{name} cannot be seen .EACCES"):
        use(name)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOMEM, errno.EIO])
def test_a_turn_with_a_limit_that_cannot_be_taken_gives_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    with StateWriter(name, shared=True, lock_timeout=5) as writer:
        writer.publish(1)
        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "fcntl", _always(number))
            with pytest.raises(SystemRefused, match=f"cannot be locked .{errno.errorcode[number]}"):
                writer.publish(2)
        assert writer.publish(2) == 2


def test_an_error_of_a_signal_handler_in_a_wait_for_the_turn_comes_out(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def handler(*_: Any) -> None:
        raise PermissionError("of the handler")

    with StateWriter(name, shared=True, lock_timeout=5) as writer, monkeypatch.context() as patched:
        patched.setattr(fcntl, "fcntl", handler)
        with pytest.raises(PermissionError, match="of the handler"):
            writer.publish(1)


def _always(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def no_more_files() -> Iterator[Dict[str, Any]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = os.dup(0)
    os.close(limit)
    yield {"take": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))}
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_with_no_descriptor_left_each_error_names_the_limit(name: str, no_more_files: Dict[str, Any]) -> None:
    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        no_more_files["take"]()
        for ask in (
            lambda: reader.writer_alive,
            lambda: StateReader(name),
            lambda: StateWriter(f"{name}-b"),
            lambda: writer.publish_bytes(bytes(1 << 20)),
            lambda: shmstate.list_states(name),
            lambda: shmstate.reclaim(name),
        ):
            with pytest.raises(SystemRefused, match="ulimit -n"):
                ask()
        assert reader.get() == 1


def test_polling_does_not_stand_in_the_way_of_a_claim(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    locked = []
    flock = fcntl.flock

    def listen(fd: int, kind: int) -> None:
        locked.append(kind)
        flock(fd, kind)

    with StateWriter(name) as writer, StateReader(name) as reader:
        writer.publish(1)
        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "flock", listen)
            assert reader.writer_alive
            assert shmstate.reclaim(name) == []
        writer.close(unlink=False)
        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "flock", listen)
            assert not ownership.is_owned(memory.path_of(name), reader._segment.inode)
        assert locked == []
        assert ownership.remove_if_dead(memory.path_of(name), name)


DROPPED = """
import os, sys, shmstate
shared = {shared}
writer = shmstate.StateWriter(sys.argv[1], shared=shared)
writer.publish(1)
os.setuid(65534)
for act in (lambda: writer.publish_bytes(bytes(1 << 20)), lambda: writer.publish_bytes(bytes(1 << 27)), {close}):
    try:
        act()
    except shmstate.AccessDenied as error:
        print(error)
"""


@needs_root
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("close", ["writer.close", "int"])
def test_a_writer_that_dropped_its_privileges_says_that_the_name_stays(name: str, shared: bool, close: str) -> None:
    script = DROPPED.format(shared=shared, close=close)
    done = subprocess.run([sys.executable, "-c", script, name], stdout=-1, stderr=-1, text=True, check=True, timeout=60)
    try:
        with StateReader(name) as reader:
            assert reader.get() == 1
            assert not reader.writer_alive
        said = done.stdout.splitlines()
        assert len(said) == (3 if close == "writer.close" else 2), done.stderr
        assert "Traceback" not in done.stderr
        assert "stays" in (said[-1] if close == "writer.close" else done.stderr)
    finally:
        assert name in shmstate.reclaim(name)


def test_a_draft_of_another_pid_namespace_is_alive_until_it_is_old(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file = f"{NEW_PREFIX}{os.getpid()}.1.77-{name}"
    path = os.path.join(SHM_DIR, file)
    with open(path, "wb"):
        pass
    try:
        assert makers.maker_is_alive(file)
        assert shmstate.reclaim() == [] or os.path.exists(path)
        monkeypatch.setattr(makers, "DRAFT_AGE", 0.0)
        assert not makers.maker_is_alive(file)
    finally:
        os.unlink(path)


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "link"])
def test_a_draft_is_locked_from_before_it_is_filled(monkeypatch: pytest.MonkeyPatch, name: str, call: str) -> None:
    taken: List[bool] = []
    real = getattr(os, call)

    def take(*arguments: Any) -> Any:
        taken.extend(ownership.remove_if_dead(os.path.join(SHM_DIR, file), None) for file in _drafts())
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, take)
        StateWriter(name).close()

    assert taken
    assert not any(taken)


def test_a_draft_taken_before_it_was_locked_is_built_again(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = fcntl.flock
    taken: List[str] = []

    def take_once(fd: int, kind: int) -> None:
        for file in _drafts() if not taken else ():
            taken.append(file)
            os.unlink(os.path.join(SHM_DIR, file))
        real(fd, kind)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", take_once)
        with StateWriter(name) as writer, StateReader(name) as reader:
            writer.publish(1)
            taken.clear()
            writer.trim()
            assert taken
            assert reader.get() == 1


def test_an_owner_whose_pid_means_another_process_here_is_not_taken_for_this_one(name: str) -> None:
    with StateWriter(name) as writer:
        with pytest.raises(shmstate.NameInUse, match="another writer of this process"):
            StateWriter(name)
        writer._segment.sign(makers.own_identity()._replace(owner_started=1))
        with pytest.raises(shmstate.NameInUse, match="in another pid namespace"):
            StateWriter(name)


@needs_root
def test_a_locked_file_of_another_user_is_untrusted_and_not_in_use(name: str) -> None:
    with StateWriter(name):
        os.chown(memory.path_of(name), 12345, -1)
        with pytest.raises(shmstate.UntrustedSegment, match="uid 12345") as caught:
            StateWriter(name)
        assert "trust_uid" not in str(caught.value)
        with pytest.raises(shmstate.UntrustedSegment, match="pass trust_uid=12345"):
            StateReader(name)
