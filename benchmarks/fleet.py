"""Local against remote queries, and one to eight hosts: ``python benchmarks/fleet.py [--quick] [--json FILE]``.

The hosts are gateways in processes of their own on loopback, each with a name and a port. A question crosses TCP, the
engine and two Pythons; what a network takes comes on top of that. On few cores many gateways compete for them: who asks
eight of them here waits for what would be done by eight machines at once.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import shmstate
from benchmarks.harness import each, interleaved, pooled, ratio
from benchmarks.states import small
from shmstate.fleet import Changes, FleetQuery

HOSTS = (1, 2, 4, 8)
MANY = 100


def free_ports(count: int) -> List[int]:
    """Ports that nobody listened on a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def gateways(prefix: str, ports: Sequence[int]) -> Iterator[List[psutil.Process]]:
    """One for each port, called ``h1`` and so on, for the states that begin with ``prefix``."""
    started: List[subprocess.Popen[bytes]] = []
    try:
        for number, port in enumerate(ports, start=1):
            command = [sys.executable, "-m", "shmstate", "gateway", "--json", "--host", f"h{number}"]
            command += ["--listen", f"tcp/127.0.0.1:{port}", f"{prefix}*"]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment))
        for process in started:
            if process.stdout is None or not process.stdout.readline():
                raise RuntimeError(f"a gateway ended with {process.wait()}")
        yield [psutil.Process(process.pid) for process in started]
    finally:
        for process in started:
            process.terminate()
            process.communicate()


def on_loopback() -> int:
    """Bytes that have been sent to this machine by itself."""
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


def measure(quick: bool) -> Dict[str, Any]:
    """Everything."""
    prefix = f"bench-{secrets.token_hex(4)}."
    ports = free_ports(max(HOSTS))
    with ExitStack() as stack:
        writers = [stack.enter_context(shmstate.StateWriter(f"{prefix}w{number:03d}")) for number in range(MANY)]
        for writer in writers:
            writer.publish(small())
        local = stack.enter_context(shmstate.QueryService(prefix[:-1]))
        processes = stack.enter_context(gateways(prefix, ports))
        count = 100 if quick else 500
        asking = {hosts: stack.enter_context(query_of(f"{prefix}w000", ports[:hosts])) for hosts in HOSTS}
        every = stack.enter_context(query_of(f"{prefix}*", ports[:1]))
        calls: Dict[str, Callable[[], Any]] = {
            "local": lambda: local.query("w000"),
            **{f"{hosts} hosts": asked_wholly(query, hosts) for hosts, query in asking.items()},
            f"{MANY} states": asked_wholly(every, MANY),
        }
        rounds = interleaved({name: partial(each, call, count) for name, call in calls.items()}, 3 if quick else 9)
        told: Dict[str, Any] = {name: pooled(times) for name, times in rounds.items()}
        told["ratio"] = ratio(rounds["1 hosts"], rounds["local"])
        told["cost"] = cost(asking[1], 1, processes[0], count * 4)
        told["cost of hosts"] = cost(asking[max(HOSTS)], max(HOSTS), processes[0], count)
        told["cost of many"] = cost(every, MANY, processes[0], count // 5)
        told["push"] = pushes(every, writers[0], count)
        told["rss"] = [process.memory_info().rss for process in processes]
        told["nbytes"] = len(writers[0].encode(small()))
    return told


def query_of(states: str, ports: Sequence[int]) -> FleetQuery:
    return FleetQuery(states, connect=[f"tcp/127.0.0.1:{port}" for port in ports], deadline=30.0)


def asked_wholly(query: FleetQuery, answers: int) -> Callable[[], None]:
    def ask() -> None:
        replies = query.ask()
        if len(replies.answers) != answers or not replies.complete:
            raise RuntimeError(f"{len(replies.answers)} answers, not {answers}; {replies.silent}; {replies.problems}")

    return ask


def cost(query: FleetQuery, answers: int, gateway: psutil.Process, count: int) -> Dict[str, float]:
    """What one question to one host takes of both processors, in microseconds, and of the network, in bytes."""
    theirs, ours, sent = sum(gateway.cpu_times()[:2]), time.process_time(), on_loopback()
    each(asked_wholly(query, answers), count)
    return {
        "gateway_us": (sum(gateway.cpu_times()[:2]) - theirs) / count * 1e6,
        "asker_us": (time.process_time() - ours) / count * 1e6,
        "bytes": (on_loopback() - sent) / count,
        "n": count,
    }


def pushes(query: FleetQuery, writer: shmstate.StateWriter, count: int) -> Dict[str, float]:
    """From publishing to the change in the hands of who follows, a version at a time; a look comes every 20 ms."""
    with Changes(query) as changes:
        while changes.get(30.0).kind != "state":
            continue
        for _ in range(MANY - 1):
            changes.get(30.0)
        taken = []
        for number in range(min(count, 200)):

            def follow(number: int = number) -> None:
                version = writer.publish({**small(), "n": number})
                while True:
                    answer = changes.get(30.0).answer
                    if answer is not None and answer.state == writer.name and answer.version == version:
                        return

            taken.append(each(follow, 1))
    return pooled(taken)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    told = measure(given.quick)
    for name in ("local", *(f"{hosts} hosts" for hosts in HOSTS), f"{MANY} states", "push"):
        print(
            f"{name:>12}: median {told[name]['p50']:9,.1f} us, p99 {told[name].get('p99', told[name]['max']):9,.1f} us"
        )
    print(f"one host against local: {told['ratio']}")
    for asked, what in (
        ("cost", "one state"),
        ("cost of hosts", f"one state of {max(HOSTS)} hosts"),
        ("cost of many", f"{MANY} states"),
    ):
        print(f"a question for {what} of {told['nbytes']} bytes: {told[asked]}")
    print(f"gateways' memory: {[f'{rss / 2**20:.0f} MiB' for rss in told['rss']]}")
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
