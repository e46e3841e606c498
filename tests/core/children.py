"""Children: fresh Pythons that run one function of this module each, and waiting for what they do.

A body gets its arguments as strings, prints lines that the test waits for, and reads lines that the test says. One
whose test is gone reads an end of file and ends.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import multiprocessing
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import ExitStack, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence

import shmstate
from shmstate import futex
from shmstate.layout import NEW_PREFIX, SHM_DIR

ROOT = Path(__file__).resolve().parent.parent.parent
#: Far more than anything here takes; only a failure waits for it.
PATIENCE = 30.0
#: The number of exit(2) on x86-64 and on the newer machines.
SYS_EXIT = 60 if os.uname().machine == "x86_64" else 93
#: What a child gets to end by itself.
GRACE = 5.0


def until(condition: Callable[[], object], timeout: float = PATIENCE, *, name: str = "it") -> None:
    """Wait for what will come true by itself. Where tests pause, they pause here, between two looks."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{name}: not within {timeout} seconds"
        time.sleep(0.002)


def drafts_of(pid: int) -> List[str]:
    """The segments without a name that a process has made."""
    return [file for file in os.listdir(SHM_DIR) if file.startswith(f"{NEW_PREFIX}{pid}.")]


def remove_drafts_of(pid: int) -> None:
    """Remove what a dead process left half made. Others may be at it: such drafts are nobody's any more."""
    for file in drafts_of(pid):
        with suppress(FileNotFoundError):
            os.unlink(f"{SHM_DIR}/{file}")


def python(body: Callable[..., None], *args: object) -> List[str]:
    """The command for a fresh Python, warnings being errors, that runs ``body``."""
    run = f"import sys; from {body.__module__} import {body.__name__}; {body.__name__}(*sys.argv[1:])"
    return [sys.executable, "-W", "error", "-c", run, *map(str, args)]


class Finished(NamedTuple):
    """How a child ended. ``code`` is negative for a signal."""

    code: int
    out: str
    err: str


class Child:
    """A running fresh Python."""

    def __init__(self, body: Callable[..., None], *args: object, env: Optional[Dict[str, str]] = None) -> None:
        self._process = subprocess.Popen(
            python(body, *args),
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._out = b""

    def line(self, timeout: float = PATIENCE) -> str:
        """The next line it prints."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._out:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no line within {timeout} seconds"
            more = os.read(self._process.stdout.fileno(), 65536)
            assert more, f"it ended instead of printing a line: {self.finish()}"
            self._out += more
        line, _, self._out = self._out.partition(b"\n")
        return line.decode()

    def say(self, text: str) -> None:
        """Give it a line to read."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def finish(self, timeout: float = PATIENCE) -> Finished:
        """Wait for its end; it reads an end of file."""
        out, err = self._process.communicate(timeout=timeout)
        return Finished(self._process.returncode, (self._out + out).decode(), err.decode())

    def end(self) -> None:
        """Let it read an end of file, and make sure that it is gone then, with all that it started."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for end in (self._process.stdout, self._process.stderr):
            if end is not None:
                end.close()


def run(body: Callable[..., None], *args: object, env: Optional[Dict[str, str]] = None) -> Finished:
    """Run ``body`` in a fresh Python to its end."""
    child = Child(body, *args, env=env)
    try:
        return child.finish()
    finally:
        child.end()


def say(*words: Any) -> None:
    """Print a line that the test waits for, whole though others of its processes print too."""
    os.write(sys.stdout.fileno(), (" ".join(map(str, words)) + "\n").encode())


def wait_for_the_test() -> str:
    """Read a line that the test says; empty at its end."""
    return sys.stdin.readline().strip()


def open_descriptors() -> int:
    """How many descriptors this process holds, that of the listing aside."""
    return len(os.listdir("/proc/self/fd")) - 1


def descriptors_before() -> int:
    """How many it holds before a test, which may be run when the collector has not yet come by what others dropped."""
    gc.collect()
    return open_descriptors()


# Bodies.


def own(name: str, *options: str) -> None:
    """Publish a state and keep it until the test says something or is gone."""
    with shmstate.StateWriter(name, **_options(options)) as writer:
        writer.publish({"from": os.getpid()})
        say("ready")
        wait_for_the_test()


def stay(word: str) -> None:
    """Tell how far this process has come, and go no further until the test says something or is gone."""
    say(word)
    wait_for_the_test()


def stay_in_a_move(title: Any, step: str) -> None:
    """Have the next move come as far as before ``step`` and stay there. ``retire``: after all is prepared."""
    prepare, take_name = title.prepare, title.take_name

    def prepare_and_stay(*args: Any) -> None:
        prepare(*args)
        stay(step)

    def take_name_and_stay() -> None:
        take_name()
        stay(step)

    if step == "retire":
        title.prepare = prepare_and_stay
    elif step == "settle":
        title.take_name = take_name_and_stay
    else:
        setattr(title, step, lambda *_: stay(step))


def move_and_stop(name: str, stop: str) -> None:
    """Publish "1" to "3", then a state that does not fit; tell of a step of the move, and stay there."""
    writer = shmstate.StateWriter(name, codec="raw", max_size=4096)
    for number in range(1, 4):
        version = writer.publish(str(number).encode())
    stay(f"published {version}")
    stay_in_a_move(writer._title, stop)
    writer.publish(bytes(5000))


def share(name: str, me: str, times: str) -> None:
    """Publish [me, number] that often beside others, once the test says so; tell the versions."""
    with shmstate.StateWriter(name, shared=True, max_size=4096) as writer:
        say("ready")
        wait_for_the_test()
        versions = [writer.publish([int(me), number, "x" * (number * 37 % 6000)]) for number in range(int(times))]
        say(*versions)
        wait_for_the_test()


def share_and_move(name: str, how: str) -> None:
    """Publish as one of several writers, move the state, publish once more, and wait."""
    writer = shmstate.StateWriter(name, shared=True, max_size=4096)
    writer.publish("before")
    if how == "trim":
        writer.trim()
    else:
        writer.publish("x" * 70_000)
    writer.publish("after")
    stay("moved")


def _forked_and_paused() -> int:
    """Fork a child that lives on, and wait until it has done what a forked child does first."""
    ready, done = os.pipe()
    child = os.fork()
    if not child:
        os.write(done, b".")
        signal.pause()
    os.read(ready, 1)
    return child


def fork_where(name: str, place: str, kind: str, is_new: str) -> None:
    """Fork where a new segment, or one that is adopted, has its lock and is not owned yet. The child lives on."""
    module, function = place.split(".")
    owner = vars(shmstate.ownership)[module]
    unhooked = getattr(owner, function)
    forked: List[int] = []

    def fork(*args: Any, **options: Any) -> Any:
        if not forked:
            forked.append(_forked_and_paused())
        return unhooked(*args, **options)

    if is_new:
        setattr(owner, function, fork)
    writer = shmstate.StateWriter(name, shared=kind == "shared")
    writer.publish(1)
    setattr(owner, function, fork)
    writer.trim()
    setattr(owner, function, unhooked)
    writer.publish(2)
    say(forked[0])
    signal.pause()


def fork_while_reclaiming(name: str) -> None:
    """Fork where a state that is given up has been locked, so as to see that. The child lives on."""
    forked: List[int] = []
    look = shmstate.ownership.leads_to

    def fork(path: str, inode: int) -> bool:
        forked.append(_forked_and_paused())
        return look(path, inode)

    shmstate.ownership.leads_to = fork
    shmstate.reclaim(name=name, dry_run=True)
    say(forked[0])
    signal.pause()


def fork_in_a_loan(name: str, by: str, kind: str) -> None:
    """Publish, and fork in the middle of a loan of this or of another thread. The child reads and writes its bytes."""
    writer = shmstate.StateWriter(name, shared=kind == "shared")
    writer.publish("first")
    lent: List[memoryview] = []
    in_loan, ended = threading.Event(), threading.Event()
    ready, done = os.pipe()

    def lend() -> None:
        with writer.loan(5) as view:
            lent.append(view)
            in_loan.set()
            ended.wait()

    def fork() -> None:
        child = os.fork()
        if not child:
            lent[0][:] = bytes(lent[0])[::-1]
            os.write(done, b".")
            signal.pause()
        os.read(ready, 1)
        say(child)
        signal.pause()

    if by == "another thread":
        threading.Thread(target=lend, daemon=True).start()
        in_loan.wait()
        fork()
    else:
        with writer.loan(5) as view:
            lent.append(view)
            fork()


def share_and_stop_in_the_turn(name: str, where: str) -> None:
    """Publish once; then take the turn, come as far as ``where`` and stay there."""
    writer = shmstate.StateWriter(name, shared=True, codec="raw", max_size=4096)
    writer.publish(b"before")
    if where == "in place":
        with writer.loan(5) as view:
            view[:] = b"torn."
            stay(where)
        return
    stay_in_a_move(writer._title, where)
    writer.publish(bytes(5000))


def echo(name: str) -> None:
    """Publish what the test says, each line a number, waking those who wait."""
    with shmstate.StateWriter(name, notify=True) as writer:
        say("ready")
        while True:
            line = wait_for_the_test()
            if not line:
                break
            writer.publish(int(line))


def publish_and_stop_before_the_ring(name: str) -> None:
    """Publish twice, the second time without coming to wake anybody."""
    writer: Any = shmstate.StateWriter(name, notify=True)
    say(writer.publish("first"))
    wait_for_the_test()
    futex.bell = lambda *_: wait_for_the_test
    writer.trim()
    writer.publish("second")


def write_through_a_readers_map(name: str) -> None:
    """Try to, past all that Python forbids."""
    reader = shmstate.StateReader(name)
    say(reader.get())
    ctypes.memset(futex.address_of(reader._segment.words, 0), 255, 4096)
    say("it was written")


def publish_arrays_without_rest(name: str) -> None:
    """Arrays of one number each, the version, of changing sizes; by publish() and by loans, until the test is gone."""
    import numpy as np

    with shmstate.StateWriter(name, codec="array", max_size=4096, slots=8) as writer:
        version = 0
        while os.getppid() != 1:
            version += 1
            array = np.full(1 + version * 7919 % (20_000 if version % 50 == 0 else 500), version)
            if version % 3:
                writer.publish(array)
                continue
            payload = arrays_of(array)
            with writer.loan(len(payload)) as view:
                view[:] = payload


def arrays_of(array: Any) -> bytearray:
    """What the codec makes of it."""
    from shmstate import arrays

    return arrays.encode(array)


RECORD = {"before": "Q", "filling": "60000s", "after": "Q"}


def publish_records_without_rest(name: str) -> None:
    """Records of the version: two numbers, and one byte many times, until the test is gone."""
    with shmstate.StateWriter(name, codec=shmstate.record(RECORD), slots=2) as writer:
        version = 0
        while os.getppid() != 1:
            version += 1
            filling = bytes([1 + version % 251]) * 60_000
            writer.publish({"before": version, "filling": filling, "after": version})


def own_and_exit(name: str, way: str) -> None:
    """Publish a state and leave without closing it."""
    writer = shmstate.StateWriter(name)
    say(writer.publish(1))
    if way == "exit":
        sys.exit(3)
    if way == "error":
        raise LookupError("uncaught")
    if way == "_exit":
        os._exit(0)


def own_in_a_process(name: str, method: str) -> None:
    """Have a child of multiprocessing do so."""
    context = multiprocessing.get_context(method)
    process = context.Process(target=own_and_exit, args=(name, "end"))  # type: ignore[attr-defined]
    process.start()
    process.join()
    say(process.exitcode, shmstate.list_states(name))


def own_and_fork(name: str, way: str) -> None:
    """Fork while owning a state; the child tries to publish, and leaves in one of the ways that there are."""
    writer = shmstate.StateWriter(name)
    writer.publish("of the parent")
    publish = writer.publish
    if way == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=_publish_as_a_fork, args=(publish, os.getpid()))
        process.start()
        process.join()
        code: Optional[int] = process.exitcode
    else:
        pid = os.fork()
        if not pid:
            _publish_as_a_fork(publish, os.getppid())
            writer.close()
            sys.exit(7)
        code = os.WEXITSTATUS(os.waitpid(pid, 0)[1])
    with shmstate.StateReader(name) as reader:
        say(code, reader.writer_alive, reader.get(), writer.publish("again"))


def _publish_as_a_fork(publish: Callable[[Any], int], parent: int) -> None:
    try:
        publish("of the child")
    except shmstate.WriterClosed as error:
        assert str(parent) in str(error)
        assert str(os.getpid()) in str(error)
    else:
        os._exit(99)


def own_with_a_fork_that_stays(name: str) -> None:
    """Own a state, and fork a child that lives on when this is killed."""
    writer = shmstate.StateWriter(name)
    writer.publish("last words")
    pid = os.fork()
    if not pid:
        say("forked", os.getpid())
        signal.pause()
    wait_for_the_test()


def own_with_an_executed_child(name: str) -> None:
    """Own a state, and start another program."""
    with shmstate.StateWriter(name) as writer:
        writer.publish(1)
        with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
            say("ready")
            wait_for_the_test()
            program.kill()


def claim_on_demand() -> None:
    """For each name that the test says: claim it, tell how that went, keep it until the test says more."""
    while True:
        name = wait_for_the_test()
        if not name:
            return
        try:
            with shmstate.StateWriter(name):
                say("won")
                wait_for_the_test()
        except shmstate.NameInUse as error:
            say(error)


def count_descriptors(name: str) -> None:
    """Tell how many descriptors ten writers, and ten readers, take."""
    with ExitStack() as stack:
        before = open_descriptors()
        writers = [stack.enter_context(shmstate.StateWriter(f"{name}-{number}")) for number in range(10)]
        for writer in writers:
            writer.publish(bytes(100_000))
        between = open_descriptors()
        for number in range(10):
            stack.enter_context(shmstate.StateReader(f"{name}-{number}")).get()
        say(between - before, open_descriptors() - between)
    say(open_descriptors() - before)


def limit_address_space(nbytes: int) -> None:
    """What `ulimit -v` does."""
    resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))


def run_out_of_address_space(name: str) -> None:
    """Make and read a state that is larger than the address space there is."""
    limit_address_space(1 << 33)
    for open_handle in (
        lambda: shmstate.StateWriter(name + "-new", max_size=1 << 32),
        lambda: shmstate.StateReader(name),
    ):
        try:
            open_handle()
        except shmstate.OutOfSharedMemory as error:
            say(error)
    say(shmstate.list_states(name + "-new"))


def use_without_a_tracker(name: str) -> None:
    """Tell which descriptor the resource tracker has after all that shmstate does."""
    with shmstate.StateWriter(name) as writer:
        writer.publish({"a": 1})
        with shmstate.StateReader(name) as reader:
            reader.get()
        try:
            shmstate.StateWriter(name)
        except shmstate.NameInUse:
            say("refused")
        limit_address_space(1 << 33)
        try:
            shmstate.StateWriter(name + "-large", max_size=1 << 32)
        except shmstate.OutOfSharedMemory:
            say("too large")
    shmstate.reclaim(name)
    say(resource_tracker._resource_tracker._fd, resource_tracker._resource_tracker._pid)  # type: ignore[attr-defined]


def use_beside_a_tracker(name: str) -> None:
    """With a resource tracker that runs already, tell what it was told."""
    resource_tracker.ensure_running()
    told: List[object] = []
    tracker: Any = resource_tracker._resource_tracker
    tracker._send = lambda *what: told.append(what)
    with shmstate.StateWriter(name) as writer, shmstate.StateReader(name) as reader:
        writer.publish(1)
        reader.get()
    say(told)


def live_a_life(name: str) -> None:
    """All steps of a writer, from claim to close."""
    with shmstate.StateWriter(name) as writer:
        for version in (1, 2):
            writer.publish([version, "x" * 5000])


def be_killed_at_every_line(name: str) -> None:
    """Fork, live a life under ``name``, be killed by SIGKILL at line n of it; for all n. Tells what was left behind."""
    died = True
    line = 0
    while died:
        state = f"{name}.{line}"
        pid = os.fork()
        if not pid:
            sys.settrace(_killer(line))
            live_a_life(state)
            sys.settrace(None)
            os._exit(0)
        died = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        say(line, pid)
        if not wait_for_the_test():
            return
        line += 1
    say("done", line)


def _killer(line: int) -> Callable[..., Any]:
    left = [line]

    def trace(frame: Any, event: str, arg: object) -> Any:
        file = frame.f_code.co_filename
        if "shmstate" not in os.path.basename(os.path.dirname(file)) and not file.endswith("shared_memory.py"):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def fill_shared_memory(name: str) -> None:
    """On a /dev/shm of 1 MiB: be refused growth, then room for a new state, and tell what still works."""
    with shmstate.StateWriter(name, codec="raw", slots=2) as writer, ExitStack() as stack:
        writer.publish(b"small")
        try:
            writer.publish(bytes(2 << 20))
        except shmstate.OutOfSharedMemory as error:
            say("growth:", error)
        with shmstate.StateReader(name) as reader:
            say(reader.get(), reader.version)
            say(writer.publish(b"smaller"), reader.get())
        file = stack.enter_context(open("/dev/shm/ballast", "wb"))
        room = os.statvfs("/dev/shm")
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
        try:
            shmstate.StateWriter(name + "-other")
        except shmstate.OutOfSharedMemory as error:
            say("creation:", error)
        say(writer.publish(b"small as ever"), sorted(os.listdir("/dev/shm")) == ["ballast", "shmstate." + name])
    say(os.listdir("/dev/shm"))


def open_as_nobody(name: str) -> None:
    """Give up being root, and tell what a reader and a writer of the name get."""
    os.setgid(65534)
    os.setuid(65534)
    for kind in (shmstate.StateReader, shmstate.StateWriter):
        try:
            kind(name)
        except shmstate.UntrustedSegment as error:
            say(error)


def list_with_a_fifo(name: str) -> None:
    """Tell what is seen of a state that is a pipe."""
    say([info.problem for info in shmstate.list_states(name)])
    for kind in (shmstate.StateReader, shmstate.StateWriter):
        try:
            kind(name)
        except shmstate.ShmStateError as error:
            say(type(error).__name__)
    say(shmstate.reclaim(name))


def _options(pairs: Sequence[str]) -> Dict[str, Any]:
    return {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in pairs)}


def fork_in_the_middle_of_a_publish(name: str, method: str) -> None:
    """Fork while a thread is publishing; tell what the child gets that tries to publish."""
    with shmstate.StateWriter(name) as writer:
        reached, go_on = threading.Event(), threading.Event()
        kind: Any = type(writer._segment)
        commit = kind.commit

        def wait(*args: Any) -> None:
            reached.set()
            go_on.wait()
            commit(*args)

        kind.commit = wait
        thread = threading.Thread(target=writer.publish, args=("x",))
        thread.start()
        reached.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
            pid = os.fork()
        if not pid:
            signal.alarm(5)
            try:
                getattr(writer, method)(b"x")
            except shmstate.WriterClosed:
                say("refused")
            os._exit(0)
        os.waitpid(pid, 0)
        go_on.set()
        thread.join()


def read_in_a_fork(name: str) -> None:
    """Read with one reader in a forked child, and then in its parent."""
    with shmstate.StateWriter(name) as writer, shmstate.StateReader(name) as reader:
        writer.publish(1)
        pid = os.fork()
        if not pid:
            say("in the child:", reader.get())
            os._exit(0)
        os.waitpid(pid, 0)
        writer.publish(2)
        say("in the parent:", reader.get())


# State machines, and pools of them.


class Adder:
    """Adds up what it is sent; does what a command says."""

    def __init__(self) -> None:
        self.total = 0
        self.handled: List[int] = []
        self.restored: Any = None

    def handle(self, message: Any) -> None:
        if isinstance(message, bytes):
            message = len(message)
        if isinstance(message, int):
            self.total += message
            self.handled.append(message)
        else:
            getattr(self, message)()

    def state(self) -> Dict[str, Any]:
        return {"total": self.total, "handled": self.handled[-100:], "pid": os.getpid(), "restored": self.restored}

    def fail(self) -> None:
        raise LookupError("from the machine")

    def exit(self) -> None:
        sys.exit(5)

    def exit_well(self) -> None:
        sys.exit(0)

    def exit_at_once(self) -> None:
        os._exit(0)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self) -> None:
        with open("/proc/self/comm", "w", encoding="ascii") as file:  # for whoever waits until it does
            file.write("hanging")
        while True:
            signal.pause()

    def hang_hard(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.hang()


class Restored(Adder):
    """Goes on where its predecessor left off."""

    def restore(self, state: Dict[str, Any]) -> None:
        self.total = state["total"]
        self.restored = state["pid"]


def restored_unless_killed_first(once: str) -> Restored:
    """Be killed while starting, if the file ``once`` is there; it is not, the next time."""
    if os.path.exists(once):
        os.unlink(once)
        os.kill(os.getpid(), signal.SIGKILL)
    return Restored()


class Unencodable(Adder):
    """Has a state that no codec takes."""

    def state(self) -> Any:
        return object()


class Pickled(Adder):
    """Has a state that only pickle takes."""

    def state(self) -> Any:
        return {"set": {1, self.total}}


def make_nothing() -> Adder:
    """Fail to make a machine."""
    raise LookupError("no machine today")


def never_make() -> NoReturn:
    """Hang instead of making a machine."""
    while True:
        signal.pause()


def make_once_it_has_ended(pid: int) -> Adder:
    """Tell the own pid, and make a machine once the other process, which waits for it, is gone."""
    say(os.getpid())
    until(lambda: has_ended(pid))
    return Adder()


def start_a_pool(fleet: str, method: str) -> None:
    """Start two workers that tell their pids, and be killed meanwhile."""
    machine = functools.partial(make_once_it_has_ended, os.getpid())
    shmstate.WorkerPool(fleet, {"w1": machine, "w2": machine}, start_method=method)


def die_at_birth() -> Adder:
    """End the process without a word."""
    os._exit(9)


def run_a_pool(fleet: str, method: str, how_it_ends: str) -> None:
    """Have two workers, tell their pids, and leave in one of the ways that there are."""
    pool = shmstate.WorkerPool(fleet, {"w1": Adder, "w2": Adder}, start_method=method, restarts=1)
    try:
        pool.send("w1", 5)
        say(*pool.pids.values())
        if how_it_ends == "wait":
            wait_for_the_test()
            signal.pause()
        elif how_it_ends == "shutdown":
            pool.shutdown()
        elif how_it_ends == "sys.exit":
            sys.exit(0)
        elif how_it_ends == "hanging":
            pool.send("w1", "hang")
        elif how_it_ends == "del":
            del pool
    except KeyboardInterrupt:
        pool.close()
        say("interrupted", [file for file in os.listdir("/dev/shm") if fleet in file])
    say("end")


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or only waits to be asked how it ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Raises:
    """A value whose pickling raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def _raise_os_error() -> NoReturn:
    raise OSError("from unpickling")


class FailsToUnpickle:
    """A value that pickles, and whose unpickling raises OSError."""

    def __reduce__(self) -> Any:
        return _raise_os_error, ()


class Asked(Adder):
    """Has a state of its own choice to give when it is asked, after the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.gives: Any = None

    def state(self) -> Any:
        gives, self.gives = self.gives, None
        return {"total": self.total} if gives is None else gives()

    def give_an_error(self) -> None:
        self.gives = lambda: Raises(OSError("from pickling"))

    def give_what_does_not_unpickle(self) -> None:
        self.gives = FailsToUnpickle

    def give_much(self) -> None:
        self.gives = lambda: b"x" * 20_000_000


class Large(Adder):
    """Has a state of 20 MB, and says which messages it handled."""

    def state(self) -> Dict[str, Any]:
        return {"total": self.total, "pid": os.getpid(), "much": b"x" * 20_000_000}


class Forks(Adder):
    """Leaves a child behind that keeps all descriptors open until the file ``end`` is there."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end = end

    def fork(self) -> None:
        if os.fork() == 0:
            until(lambda: os.path.exists(self.end))
            os._exit(0)


def run_a_pool_with_a_fork(fleet: str, method: str, busy: str) -> None:
    """Run two workers, fork a child that stays, and say the pids of the workers and of the child."""
    pool = shmstate.WorkerPool(fleet, {"w1": Adder, "w2": Adder}, start_method=method, interval=60)
    child = os.fork()
    if child == 0:
        signal.pause()
    if busy == "busy":
        pool.send("w1", 5)
    say(*pool.pids.values(), child)
    wait_for_the_test()
    signal.pause()


def make_a_pool_in_a_daemonic_process(fleet: str, method: str) -> None:
    """Make a pool in a daemonic process, and say how that failed."""
    process = multiprocessing.get_context("fork").Process(target=_make_a_pool, args=(fleet, method), daemon=True)
    process.start()
    process.join()


def _make_a_pool(fleet: str, method: str) -> None:
    before = open_descriptors()
    try:
        shmstate.WorkerPool(fleet, {"w1": Adder}, start_method=method)
    except shmstate.InvalidOption as error:
        say(open_descriptors() - before, error)


def end_the_first_thread() -> None:
    """End the first thread of the process, while another one runs on."""
    say("here")
    threading.Thread(target=wait_for_the_test).start()
    ctypes.CDLL(None).syscall(SYS_EXIT, 0)  # of this thread alone


def run_a_pool_in_a_namespace(fleet: str) -> None:
    """Run a worker in a pid namespace of its own until it has looked for its pool twice; say whether it lives."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000000) != 0:
        say("not permitted")
        return
    with shmstate.WorkerPool(fleet, {"w1": Adder}, start_method="fork", interval=0.01) as pool:
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 2.5)
        say("alive" if pool.query("w1").alive and pool.ask("w1", timeout=10)["total"] == 0 else "ended")
