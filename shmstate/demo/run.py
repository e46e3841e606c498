"""The demo from start to end: workers that count the standard library, watched, checked, reported."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import sys
import time
from functools import partial
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, TextIO

from shmstate import OutOfSharedMemory, ShmStateError, StateWriter, WorkerPool, list_states, reclaim
from shmstate.demo.census import Census, State, merge, sources_under, standard_library
from shmstate.demo.report import Report, as_text, summarize
from shmstate.demo.screen import Screen, screen_for
from shmstate.demo.signals import Interrupted, Interruptions
from shmstate.demo.units import size
from shmstate.demo.watch import Watch
from shmstate.layout import DEFAULT_SLOTS, NEW_PREFIX, PAGE, PREFIX, SHM_DIR, whole_pages

INTERVAL = 0.05  # seconds between two publishes of a worker, at least
RESTARTS = 5
CLEAN_UP_TIMEOUT = 3.0
FEWEST_WORKERS = 4


class Options(NamedTuple):
    """What may be chosen. ``workers`` and ``files`` None: as many as there are cores, and all."""

    workers: Optional[int] = None
    files: Optional[int] = None
    start_method: str = "spawn"
    json: bool = False
    plain: bool = False


def demonstrate(options: Options) -> int:
    """Run the demo and print its report; returns the exit status, 0 if all held.

    Ends early on SIGINT (130) and SIGTERM (143). Raises ShmStateError, also if there is too little shared memory.
    However it ends, its workers have ended and its segments are gone.
    """
    fleet = f"demo-{os.getpid()}"
    stream = sys.stderr if options.json else sys.stdout
    with _quiet(), Interruptions() as interruptions:
        try:
            report = _run(fleet, options, stream, interruptions)
            interruptions.check()
        except (Interrupted, ShmStateError):
            left = _clean_up(fleet)
            if interruptions.seen is None:
                raise
            # A signal to the whole process group ends workers too, so whatever failed, this is why.
            nothing = f"left in {SHM_DIR}: {', '.join(left)}" if left else f"nothing was left in {SHM_DIR}"
            print(f"Interrupted; the workers have ended, {nothing}.", file=sys.stderr)
            return 128 + interruptions.seen
    print(json.dumps(report.as_json(), indent=2) if options.json else as_text(report), flush=True)
    return 0 if report.held else 1


def _run(fleet: str, options: Options, stream: TextIO, interruptions: Interruptions) -> Report:
    root = standard_library()
    files = sources_under(root, options.files)
    if not files:
        raise ShmStateError(f"this Python has no sources of its standard library in {root}, which the demo counts")
    workers = options.workers or max(FEWEST_WORKERS, len(os.sched_getaffinity(0)))
    need = memory_needed(root, files, workers)
    require_room(fleet, need)
    with screen_for(stream, options.plain) as screen:
        screen.say(
            f"{workers} workers ({options.start_method}) parse {len(files):,} files of Python"
            f" {platform.python_version()}'s standard library; this process watches their states.\n"
        )
        with _start(fleet, root, workers, options.start_method, interruptions) as pool:
            began = time.monotonic()
            watch = _watch(pool, files, need, screen, interruptions)
            in_workers = time.monotonic() - began
        began = time.monotonic()
        alone = _count_alone(root, files, screen, interruptions)
        in_one = time.monotonic() - began
    left = left_over(fleet, watch.pids)
    return summarize(
        watch,
        _together(watch),
        alone,
        left,
        (in_workers, in_one),
        python=platform.python_version(),
        start_method=options.start_method,
    )


def _start(fleet: str, root: str, workers: int, start_method: str, interruptions: Interruptions) -> WorkerPool:
    _keep_the_page_clean()
    return WorkerPool(
        fleet,
        {f"w{number}": partial(quiet_census, root) for number in range(1, workers + 1)},
        start_method=start_method,
        interval=INTERVAL,
        restarts=RESTARTS,
        cancelled=lambda: interruptions.seen is not None,
    )


def quiet_census(root: str) -> Census:
    """A census in a worker. What goes wrong there shows in its state, or the lack of one; the demo's page stays clean."""
    _keep_the_page_clean()
    return Census(root)


def _keep_the_page_clean() -> None:
    """Keep log records off stderr. The demo's own page shows restarts and errors."""
    logging.getLogger("shmstate").addHandler(logging.NullHandler())


def _watch(pool: WorkerPool, files: Sequence[str], need: int, screen: Screen, interruptions: Interruptions) -> Watch:
    watch = Watch(pool, files)
    try:
        while not watch.done:
            interruptions.check()
            if watch.step() is not None:
                require_room(pool.fleet, need)
            screen.show_watch(watch)
    finally:
        watch.close()
    return watch


def _count_alone(root: str, files: Sequence[str], screen: Screen, interruptions: Interruptions) -> State:
    census = Census(root)
    for counted, path in enumerate(files):
        interruptions.check()
        screen.show_count(counted, len(files))
        census.handle(path)
    return census.state()


def _together(watch: Watch) -> State:
    try:
        return merge(watch.states)
    except ValueError as error:
        raise ShmStateError(str(error)) from error


def memory_needed(root: str, files: Sequence[str], workers: int) -> int:
    """Bytes of shared memory that the states will take at most, about.

    Names recur the more, the more there is of a text, so a census grows with the 0.7th power of its sources: 4 times
    that was measured on the standard libraries of 3.8 to 3.13. Twice as much is asked for.
    """
    sources = 0
    for path in files:
        with contextlib.suppress(OSError):  # a dangling link: will be counted as unparsed
            sources += os.stat(os.path.join(root, path)).st_size
    state = 8 * (sources / workers) ** 0.7
    return workers * (PAGE + DEFAULT_SLOTS * whole_pages(int(state)))


def require_room(fleet: str, need: int) -> None:
    """See that ``/dev/shm`` has ``need`` bytes for the fleet, including what it has already: take it, and give it back.

    Raises OutOfSharedMemory.
    """
    missing = need - sum(info.memory for info in list_states(f"{fleet}."))
    if missing <= 0:
        return
    try:
        with StateWriter(f"{fleet}.room", codec="raw", slots=2, max_size=missing) as room:
            room.publish_bytes(bytes(missing))
    except OutOfSharedMemory as error:
        raise OutOfSharedMemory(
            f"{error}. The demo's states take up to {size(need)} in {SHM_DIR}; fewer --files or --workers take less"
        ) from error


def left_over(fleet: str, pids: Iterable[int]) -> List[str]:
    """What is in ``/dev/shm`` of this fleet, whose processes are or were ``pids``. Strangers' segments do not count."""
    ours = (f"{PREFIX}{fleet}.", *(f"{NEW_PREFIX}{pid}." for pid in (os.getpid(), *pids)))
    return sorted(name for name in os.listdir(SHM_DIR) if name.startswith(ours))


def _clean_up(fleet: str) -> List[str]:
    """Remove what workers left that were ended with us, waiting a little for the last of them; returns what stays.

    Their pool has seen to nearly all. With forkserver, whose server may be ended first, it cannot know when they end.
    """
    deadline = time.monotonic() + CLEAN_UP_TIMEOUT
    while True:
        reclaim(f"{fleet}.")
        left = left_over(fleet, [])
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Have the pool's warnings about workers that it had to end printed by nobody; the report tells how it went."""
    log, handler = logging.getLogger("shmstate"), logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
