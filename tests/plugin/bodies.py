"""What workers run, and fresh Pythons that have workers of their own. Importable by name, and quick to import."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from multiprocessing import forkserver, util
from typing import Any, Dict, List, NoReturn, Tuple

import shmstate
from pytest_shmstate import worker_body
from pytest_shmstate import workers as workers_module
from pytest_shmstate.worker_body import _outgoing
from pytest_shmstate.workers import Worker, Workers, ready
from tests.core.children import has_ended, say, until, wait_for_the_test

#: Longer than a test may take.
GRACE = 200.0

# Functions for workers.


def echo(*args: Any, **kwargs: Any) -> Tuple[Any, Dict[str, Any]]:
    return args, kwargs


def its_pid() -> int:
    return os.getpid()


def fail(text: str = "from the worker") -> NoReturn:
    raise LookupError(text)


def be_ready_and_return(value: Any) -> Any:
    ready(value)
    return value


def be_ready_and_wait(value: Any = None) -> NoReturn:
    ready(value)
    wait_forever()


def wait_forever() -> NoReturn:
    while True:
        signal.pause()


def be_ready_and_ignore_sigterm() -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    be_ready_and_wait()


def be_ready_and_raise_at_sigterm() -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: fail("told to end"))
    be_ready_and_wait()


def stay() -> None:
    threading.Thread(target=wait_forever_in_a_thread).start()


def fail_and_stay() -> NoReturn:
    stay()
    fail()


def return_and_stay() -> str:
    stay()
    return "returned"


def return_and_exit_otherwise(number: int) -> str:
    util.Finalize(None, os._exit, args=(number,), exitpriority=1)
    return "returned"


def end(way: str, number: int) -> None:
    if way == "sys.exit":
        sys.exit(number)
    if way == "os._exit":
        os._exit(number)
    os.kill(os.getpid(), number)


def return_bytes(size: int) -> bytes:
    return bytes(size)


def be_ready_with_bytes(size: int, then: Any) -> None:
    ready(bytes(size))
    then.set()


def publish_forever(name: str) -> NoReturn:
    with shmstate.StateWriter(name) as writer:
        writer.publish(0)
        ready()
        while True:
            writer.publish(writer.version)


def read_state(name: str) -> Any:
    with shmstate.StateReader(name) as reader:
        return reader.get()


def own_and_wait(name: str) -> NoReturn:
    with shmstate.StateWriter(name) as writer:
        writer.publish("owned")
        be_ready_and_wait()


def take_long_to_leave(path: str) -> NoReturn:
    """Be told to leave once more on the way out, and write down that it was got through."""
    try:
        be_ready_and_wait()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: signal.SIGTERM not in signal.sigpending())
        with open(path, "w", encoding="utf-8") as file:
            file.write("left")


def own_with_threads_and_wait(name: str) -> NoReturn:
    writer = shmstate.StateWriter(name)
    for _ in range(8):
        threading.Thread(target=writer.publish, args=(1,)).start()
        threading.Thread(target=wait_forever_in_a_thread, daemon=True).start()
    be_ready_and_wait()


def wait_forever_in_a_thread() -> None:
    threading.Event().wait()


def be_ready_and_never_leave() -> NoReturn:
    try:
        be_ready_and_wait()
    finally:
        wait_forever()


def have_children(*, new_session: bool = False) -> NoReturn:
    """Have two children, one of them a fork that holds what it inherited; tell their pids."""
    program = subprocess.Popen(["sleep", "600"], start_new_session=new_session)
    pid = os.fork()
    if not pid:
        wait_forever()
    be_ready_and_wait([program.pid, pid])


def fork_once_its_process_is_gone() -> NoReturn:
    """Exit with what a fork of it found: whether it was told as well."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    leave = signal.getsignal(signal.SIGTERM)
    ready()
    until(lambda: leave.lifeline.is_cut)  # type: ignore[union-attr]
    pid = os.fork()
    if not pid:
        os._exit(signal.SIGTERM in signal.sigpending())
    os._exit(os.waitpid(pid, 0)[1] >> 8)


def tell_what_sigterm_does_in_a_fork() -> str:
    ours, theirs = os.pipe()
    if not os.fork():
        os.write(theirs, repr(signal.getsignal(signal.SIGTERM)).encode())
        os._exit(0)
    os.wait()
    return os.read(ours, 1000).decode()


def leave_a_child() -> int:
    pid = os.fork()
    if not pid:
        wait_forever()
    return pid


def leave_a_grandchild_that_ends() -> int:
    """A process whose parent dies first, and which waits to be reaped by whoever inherits it."""
    reader, writer = os.pipe()
    if not os.fork():
        pid = os.fork()
        if pid:
            os.write(writer, str(pid).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reader, 20))


def return_twice() -> Any:
    pid = os.fork()
    if not pid:
        return Unpicklable()
    os.waitpid(pid, 0)
    return "the worker's"


def raise_twice() -> str:
    pid = os.fork()
    if not pid:
        os.close(2)
        fail("the child's")
    os.waitpid(pid, 0)
    return "the worker's"


def get_ready_twice() -> None:
    ready()
    ready()


def get_ready_in_a_fork() -> int:
    pid = os.fork()
    if not pid:
        try:
            ready()
        except RuntimeError:
            os._exit(5)
        os._exit(6)
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])


def close_descriptors() -> str:
    os.closerange(3, 100)
    return "to nobody"


def close_descriptors_and_wait(file: str) -> NoReturn:
    os.closerange(3, 100)
    with open(file, "w", encoding="utf-8"):
        wait_forever()


def put_another_file_in_place_of_the_pipe(path: str) -> None:
    with open(path, "wb") as file:
        os.dup2(file.fileno(), _outgoing[0]._pipe.fileno())


def raise_unpicklable() -> NoReturn:
    error = LookupError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


class NeedsTwo(Exception):
    """Pickles, and does not unpickle: it is made from two arguments, and tells of one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def raise_not_unpicklable() -> NoReturn:
    raise NeedsTwo("first", "second")


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise TypeError("not for pickle")


class NotUnpicklable:
    """Fails to unpickle where ``where`` says: in the worker, or in its maker."""

    def __init__(self, where: int) -> None:
        self._where = where

    def __reduce__(self) -> Tuple[Any, ...]:
        return _unpickle_but_in, (self._where,)


def _unpickle_but_in(pid: int) -> NotUnpicklable:
    if pid in (0, os.getpid()):
        raise LookupError("not here")
    return NotUnpicklable(pid)


def return_unpicklable() -> Unpicklable:
    return Unpicklable()


def return_what_does_not_unpickle(pid: int) -> NotUnpicklable:
    return NotUnpicklable(pid)


class Interrupting:
    """Has SIGINT come while it is pickled, in the middle of the start of a process."""

    def __init__(self, times: int) -> None:
        self._times = times

    def __reduce__(self) -> Tuple[Any, ...]:
        for _ in range(self._times):
            signal.raise_signal(signal.SIGINT)
        return int, ()


def minds_ctrl_c() -> bool:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler and not blocked


def wait_on(event: Any) -> bool:
    return bool(event.wait(30))


def have_workers(method: str) -> List[int]:
    """Workers of a worker."""
    with Workers() as workers:
        first = workers.spawn(its_pid, start_method=method)
        second = workers.spawn(be_ready_and_wait, start_method=method)
        second.wait_ready()
        return [os.getpid(), first.result(), second.pid]


def have_a_worker_and_wait(method: str) -> None:
    with Workers() as workers:
        worker = workers.spawn(be_ready_and_ignore_sigterm, start_method=method)
        worker.wait_ready()
        be_ready_and_wait(worker.pid)


# Fresh Pythons, see tests/core/children.py.


def wait_for_a_worker(method: str) -> None:
    """Tell of a worker, and be interrupted while waiting for it."""
    try:
        with Workers() as workers:
            worker = workers.spawn(be_ready_and_wait, start_method=method)
            worker.wait_ready()
            say(worker.pid)
            worker.result()
    except KeyboardInterrupt:
        say("interrupted", has_ended(worker.pid))


def be_killed_with_workers(method: str) -> None:
    """Tell of workers, one of them stopped, and wait."""
    workers = Workers()
    running = workers.spawn(be_ready_and_wait, start_method=method)
    stopped = workers.spawn(be_ready_and_wait, start_method=method)
    parent = workers.spawn(have_children, start_method=method)
    running.wait_ready()
    stopped.wait_ready()
    stopped.stop()
    say(running.pid, stopped.pid, parent.pid, *parent.wait_ready())
    wait_for_the_test()
    os._exit(0)


def be_killed_with_a_state(name: str) -> None:
    """Have a worker that owns a state, and wait."""
    workers = Workers()
    worker = workers.spawn(own_and_wait, name, start_method="fork")
    worker.wait_ready()
    say(worker.pid)
    wait_for_the_test()


def be_killed_with_one_that_hangs() -> None:
    """Have a worker that does not come to an end when it is told to, and wait."""
    worker_body._LAST_GRACE = 0.2
    workers = Workers()
    worker = workers.spawn(be_ready_and_never_leave, start_method="fork")
    worker.wait_ready()
    say(worker.pid)
    wait_for_the_test()


def never_leave_workers(method: str, way: str) -> None:
    """Have a worker and do not leave its block."""
    workers = Workers()
    worker = workers.spawn(be_ready_and_wait, start_method=method)
    worker.wait_ready()
    say(worker.pid)
    if way == "collected":
        del workers
        gc.collect()
        say(has_ended(worker.pid))
    if way == "error":
        # Its traceback is of no interest here. Closed, the descriptor would make Python end with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        raise LookupError("uncaught")


def use_a_worker_as_a_fork(method: str) -> None:
    """Fork a child that leaves the block; tell how the worker is, and what the child may do."""
    with Workers(grace=0.0) as workers:
        worker = workers.spawn(be_ready_and_wait, start_method=method)
        worker.wait_ready()
        pid = os.fork()
        if not pid:
            _try(workers, worker)
            workers.close()
            workers.__exit__(None, None, None)
            os._exit(3)
        say("child", os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
        say(worker.alive)


def _try(workers: Workers, worker: Worker) -> None:
    for act in (lambda: workers.spawn(its_pid), worker.result, worker.wait_ready, worker.kill, worker.stop):
        try:
            act()
        except RuntimeError as error:
            if str(os.getpid()) not in str(error):
                os._exit(98)
        else:
            os._exit(99)


def have_the_fork_server_killed() -> None:
    """Have a worker of a fork server that is killed."""
    workers_module._TERMINATE_GRACE = 0.1
    with Workers() as workers:
        worker = workers.spawn(be_ready_and_ignore_sigterm, start_method="forkserver")
        worker.wait_ready()
        server: Any = forkserver._forkserver
        os.kill(server._forkserver_pid, signal.SIGKILL)
        os.waitpid(server._forkserver_pid, 0)
        server._forkserver_pid = None
        say(worker.alive, worker.exitcode)
        pid = worker.pid
    say(has_ended(pid), worker.alive)


def inherit_orphans() -> None:
    """Become the parent of those whose own has died; tell what is left of them."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    with Workers() as workers:
        left = workers.spawn(leave_a_child, start_method="fork").result()
        dead = workers.spawn(leave_a_grandchild_that_ends, start_method="fork").result()
    say([os.path.exists(f"/proc/{pid}") for pid in (left, dead)])


def run_out_of_descriptors() -> None:
    """Leave the block with none left."""
    workers_module._TERMINATE_GRACE = 0.1
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
    files = []
    try:
        with Workers() as workers:
            running = workers.spawn(be_ready_and_ignore_sigterm, start_method="fork")
            running.wait_ready()
            while True:
                files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        for file in files:
            os.close(file)
        until(lambda: has_ended(running.pid))
        say(error.errno, os.path.exists(f"/proc/{running.pid}"))


def be_interrupted_again(method: str) -> None:
    """Be interrupted, and again while a worker is given time to end."""
    module: Any = workers_module
    wait_until = module.wait_until

    def say_and_wait(*args: Any) -> bool:
        if args[1] == GRACE:
            say("leaving")
        return bool(wait_until(*args))

    module.wait_until = say_and_wait
    try:
        with Workers(grace=GRACE) as workers:
            worker = workers.spawn(be_ready_and_ignore_sigterm, start_method=method)
            worker.wait_ready()
            say(worker.pid)
            worker.result()
    except KeyboardInterrupt:
        say("interrupted", has_ended(worker.pid))
