"""The commands ``gateway`` and ``ask``: their options, and what they print."""

from __future__ import annotations

import argparse
import json
import pprint
import sys
from typing import Any, Callable, Dict, List

from shmstate.demo.units import duration, size
from shmstate.errors import FleetError
from shmstate.fleet import engine
from shmstate.plain import jsonable, printable
from shmstate.serving import signals_held

FAILED = 1


def add_gateway_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command ``gateway`` its options, and this module to run them."""
    parser.add_argument("states", nargs="*", metavar="STATES", help="only those, as in 'fleet.*'; default: all")
    parser.add_argument("--host", metavar="NAME", help="what this machine is called; default: its host name")
    parser.add_argument(
        "--listen",
        action="append",
        metavar="ENDPOINT",
        help=f"where to be asked, as tcp/0.0.0.0:7447; may be given again; default: {engine.DEFAULT_ENDPOINT}",
    )
    parser.add_argument(
        "--connect", action="append", metavar="ENDPOINT", help="a router of zenoh's; may be given again"
    )
    _add_common(parser)
    parser.add_argument("--interval", type=float, metavar="SECONDS", help="between looks for changes; default: 0.02")
    parser.set_defaults(command=gateway)


def add_ask_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the command ``ask`` its options, and this module to run them."""
    parser.add_argument("states", metavar="STATES", help="a state's name, or a pattern such as 'fleet.*'")
    parser.add_argument(
        "--hosts",
        action="append",
        metavar="HOSTS",
        help="a host's name, or a pattern such as 'rack1-*'; may be given again; default: all",
    )
    parser.add_argument(
        "--connect",
        action="append",
        metavar="ENDPOINT",
        help=f"a gateway, or a router of zenoh's; may be given again; default: {engine.DEFAULT_ENDPOINT}",
    )
    parser.add_argument("--deadline", type=float, default=1.0, metavar="SECONDS", help="default: 1")
    parser.add_argument("--follow", action="store_true", help="print what changes, until interrupted")
    parser.add_argument("--count", type=int, metavar="N", help="with --follow: end after N changes")
    parser.add_argument(
        "--codec",
        help="what the states are encoded with, if it is pickle: reading that runs code of the writer's choosing",
    )
    _add_common(parser)
    parser.set_defaults(command=ask, refuse=parser.error)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-payload",
        type=int,
        default=engine.DEFAULT_MAX_PAYLOAD,
        metavar="BYTES",
        help=f"larger states are named, not sent; default: {engine.DEFAULT_MAX_PAYLOAD}",
    )
    parser.add_argument("--config", metavar="FILE", help="a configuration of zenoh's: TLS, passwords, access control")
    parser.add_argument("--scout", action="store_true", help="find each other by multicast, too")


def gateway(arguments: argparse.Namespace) -> int:
    """Answer until told to end; the exit status. Raises FleetError, InvalidOption."""
    from shmstate.fleet.gateway import Gateway

    more = {} if arguments.interval is None else {"interval": arguments.interval}
    with signals_held() as wait, Gateway(
        arguments.host,
        states=arguments.states or ("*",),
        listen=arguments.listen,
        connect=arguments.connect,
        max_payload=arguments.max_payload,
        config=arguments.config,
        scouting=arguments.scout,
        **more,
    ) as opened:
        _say_where(opened, arguments.json)
        try:
            return wait()
        finally:
            stats = opened.stats._asdict()
            if arguments.json:
                print(json.dumps(stats), flush=True)
            else:
                print(", ".join(f"{count:,} {what}" for what, count in stats.items()), flush=True)


def _say_where(opened: Any, as_json: bool) -> None:
    places = {"listen": opened.listen, "connect": opened.connect}
    if as_json:
        print(
            json.dumps({"host": opened.host, "gateway": opened.id, **places, "states": len(opened.states())}),
            flush=True,
        )
        return
    told = " and ".join(f"{where} {', '.join(endpoints)}" for where, endpoints in _told(places) if endpoints)
    print(f"gateway {opened.host!r} answers for {len(opened.states())} states, {told}; Ctrl-C ends it", flush=True)
    for endpoint in opened.open_to_others:
        print(f"shmstate: {endpoint} asks nobody who he is: all who reach it read these states", file=sys.stderr)


def _told(places: Dict[str, List[str]]) -> Any:
    return (("listening on", places["listen"]), ("connected to", places["connect"]))


def ask(arguments: argparse.Namespace) -> int:
    """Ask once, or follow; the exit status: 0 if all have answered. Raises FleetError, InvalidOption."""
    from shmstate.fleet.asking import FleetQuery

    if arguments.count is not None and not (arguments.follow and arguments.count > 0):
        arguments.refuse("argument --count: a number above 0, and only with --follow")
    with FleetQuery(
        arguments.states,
        hosts=arguments.hosts or "*",
        connect=arguments.connect,
        deadline=arguments.deadline,
        codec=arguments.codec,
        max_payload=arguments.max_payload,
        config=arguments.config,
        scouting=arguments.scout,
    ) as query:
        try:
            return _follow(query, arguments) if arguments.follow else _ask_once(query, arguments.json)
        except RecursionError as error:
            raise FleetError(f"a state of {arguments.states!r} is nested too deeply to be printed") from error


def _ask_once(query: Any, as_json: bool) -> int:
    replies = query.ask()
    if as_json:
        answers = [{**answer._asdict(), "value": jsonable(answer.value)} for answer in replies.answers]
        problems = [problem._asdict() for problem in replies.problems]
        told = {"answers": answers, "silent": replies.silent, "problems": problems, "seconds": replies.seconds}
        print(json.dumps(told, indent=2))
    else:
        for answer in replies.answers:
            print(_line(answer))
        for host, state, text in replies.problems:
            print(f"shmstate: {printable(' '.join(filter(None, (host, state))))}: {printable(text)}", file=sys.stderr)
        for who, why in replies.silent.items():
            print(f"shmstate: no answer of {printable(who)}: {printable(why)}", file=sys.stderr)
        if not replies.answers and replies.complete:
            print(f"shmstate: no such state: {query.states!r}", file=sys.stderr)
    return 0 if replies.answers and replies.complete else FAILED


def _line(answer: Any) -> str:
    writer = "" if answer.alive else ", its writer is dead"
    value = pprint.pformat(answer.value, width=120, compact=True, sort_dicts=False)
    return (
        f"{printable(answer.host)} {printable(answer.state)}: version {answer.version:,}, {size(answer.nbytes)},"
        f" {duration(answer.age * 1e6)} old{writer}: {value}"
    )


def _follow(query: Any, arguments: argparse.Namespace) -> int:
    from shmstate.fleet.changes import Changes

    show: Callable[[Any], None] = _show_as_json if arguments.json else _show
    with Changes(query, deadline=arguments.deadline) as changes:
        for seen, change in enumerate(changes, start=1):
            show(change)
            if seen != arguments.count:
                continue
            return 0
    raise FleetError(f"query of {query.states!r} was closed")


def _show_as_json(change: Any) -> None:
    answer = change.answer and {**change.answer._asdict(), "value": jsonable(change.answer.value)}
    print(json.dumps({**change._asdict(), "answer": answer}), flush=True)


def _show(change: Any) -> None:
    if change.answer is not None:
        print(_line(change.answer), flush=True)
    else:
        what = " ".join(filter(None, (change.host, change.state)))
        print(
            f"{printable(what)}: {change.kind}{printable(': ' + change.problem if change.problem else '')}", flush=True
        )
