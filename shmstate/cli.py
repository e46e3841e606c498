"""The command ``shmstate``: what is in shared memory, what it says, and what nobody owns any more."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pprint
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import shmstate
from shmstate import CodecMismatch, ShmStateError, StateInfo, StateReader, WriterGone
from shmstate.demo.units import duration, size
from shmstate.export.command import add_arguments as add_export_arguments
from shmstate.fleet.command import add_ask_arguments, add_gateway_arguments
from shmstate.looks import Looks, read_undecoded
from shmstate.plain import jsonable, print_value, printable

FAILED, USAGE, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
EPILOG = f"""\
exit status:
  0    done; for `demo`: all of it held
  {FAILED}    failed, or not found; stderr says why
  {USAGE}    wrong usage
  {INTERRUPTED}  interrupted (143: by SIGTERM)
  {CLOSED_PIPE}  whoever read the output closed it
"""
_HEADINGS = ("name", "writer", "pid", "version", "rate", "size", "age", "stale", "memory", "codec", "problem")
_SOMETIMES = ("rate", "problem")
_RIGHT = {"pid", "version", "rate", "size", "age", "stale", "memory"}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command; returns its exit status. Raises SystemExit for wrong usage and ``--help``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        status = command(arguments)
        sys.stdout.flush()
        return status
    except ShmStateError as error:
        print(f"shmstate: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("shmstate: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more when it exits, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shmstate",
        description="States that processes publish in shared memory: list, read, clean up, and see it work.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shmstate {shmstate.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    ls = commands.add_parser("ls", help="list the states on this machine")
    ls.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that begin so")
    ls.set_defaults(command=_ls)

    show = commands.add_parser("show", help="print a state")
    show.add_argument("name", metavar="NAME")
    show.add_argument(
        "--codec", help="what the writer encodes with, if it is pickle: reading that runs code of the writer's choosing"
    )
    show.add_argument("--hex", action="store_true", help="its bytes as they are, not decoded")
    show.set_defaults(command=_show)

    watch = commands.add_parser("watch", help="print a state whenever it changes, until its writer is gone")
    watch.add_argument("name", metavar="NAME")
    watch.add_argument("--codec", help="as for show")
    watch.add_argument("--count", type=_positive, metavar="N", help="end after N versions")
    watch.set_defaults(command=_watch)

    top = commands.add_parser("top", help="list the states again and again, with how often they are published")
    top.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that begin so")
    top.add_argument("--interval", type=_seconds_of, default=1.0, metavar="SECONDS", help="default: 1")
    top.add_argument("--count", type=_positive, metavar="N", help="end after N looks")
    top.set_defaults(command=_top)

    reclaim = commands.add_parser("reclaim", help="remove states that dead writers left")
    reclaim.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that begin so")
    reclaim.add_argument("--exact", metavar="NAME", help="only the state of exactly that name")
    reclaim.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    reclaim.set_defaults(command=_reclaim)

    export = commands.add_parser("export", help="have the states watched by a monitoring system: Prometheus")
    add_export_arguments(export)

    gateway = commands.add_parser("gateway", help="answer for this machine's states to whoever asks from another")
    add_gateway_arguments(gateway)
    ask = commands.add_parser("ask", help="ask the gateways of other machines for states")
    add_ask_arguments(ask)

    demo = commands.add_parser("demo", help="see it work: workers parse the standard library and are watched")
    demo.add_argument("--workers", type=_positive, metavar="N", help="default: as many as cores, 4 at least")
    demo.add_argument("--files", type=_positive, metavar="N", help="parse the first N files only")
    demo.add_argument("--start-method", choices=("spawn", "fork", "forkserver"), default="spawn", help="default: spawn")
    demo.add_argument("--plain", action="store_true", help="lines of text, also on a terminal")
    demo.set_defaults(command=_demo)

    for command in (ls, show, watch, top, reclaim, export, gateway, ask, demo):
        command.add_argument("--json", action="store_true", help="for programs")
        command.epilog, command.formatter_class = parser.epilog, parser.formatter_class
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _seconds_of(text: str) -> float:
    seconds = float(text)
    if not 0.01 <= seconds <= 86_400:
        raise ValueError
    return seconds


_seconds_of.__name__ = "number of seconds"
_positive.__name__ = "positive number"  # argparse: "invalid positive number value: '0'"


def _ls(arguments: argparse.Namespace) -> int:
    states = shmstate.list_states(arguments.prefix)
    if arguments.json:
        print(json.dumps([state._asdict() for state in states], indent=2))
    elif states:
        _print_table([_cells(state) for state in states])
    else:
        print(f"no state{_beginning_with(arguments.prefix)}")
    return 0


def _cells(state: StateInfo) -> Dict[str, str]:
    known = not state.problem or bool(state.owner_pid)
    return {
        "name": printable(state.name),
        "writer": ("alive" if state.alive else "dead") if known else "",
        "pid": str(state.owner_pid) if known else "",
        "version": f"{state.version:,}" if known else "",
        "size": size(state.nbytes) if state.version else "",
        "age": _seconds(state.age),
        "stale": _seconds(state.staleness),
        "memory": size(state.memory) if known else "",
        "codec": state.codec,
        "problem": printable(state.problem),
    }


def _print_table(rows: List[Dict[str, str]]) -> None:
    headings = _headings(rows)
    table = _rich_table(headings, rows) if sys.stdout.isatty() else None
    if table is None:
        _print_plain_table(headings, rows)
    else:
        from rich.console import Console

        Console().print(table)


def _headings(rows: List[Dict[str, str]]) -> List[str]:
    always = [heading for heading in _HEADINGS if heading not in _SOMETIMES]
    return [heading for heading in _HEADINGS if heading in always or any(row.get(heading) for row in rows)]


def _print_plain_table(headings: List[str], rows: List[Dict[str, str]]) -> None:
    widths = {heading: max(len(heading), *(len(row[heading]) for row in rows)) for heading in headings}
    for row in ({heading: heading.upper() for heading in headings}, *rows):
        cells = (
            row[heading].rjust(widths[heading]) if heading in _RIGHT else row[heading].ljust(widths[heading])
            for heading in headings
        )
        print("  ".join(cells).rstrip())


def _rich_table(headings: List[str], rows: List[Dict[str, str]]) -> Any:
    """A table of rich's, or None without it."""
    try:
        from rich import box
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return None
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[heading]) for heading in headings), style="" if row["writer"] == "alive" else "dim")
    return table


def _show(arguments: argparse.Namespace) -> int:
    if arguments.hex:
        return _show_bytes(arguments)
    with _reader(arguments.name, arguments.codec) as reader:
        snapshot, staleness = reader.read_with_staleness()
        facts: Dict[str, Any] = {
            "name": reader.name,
            "version": snapshot.version,
            "age": snapshot.age,
            "staleness": staleness,
            "alive": reader.writer_alive,
            "codec": reader.codec,
        }
    try:
        if arguments.json:
            print(json.dumps({**facts, "value": jsonable(snapshot.value)}, indent=2))
        else:
            print(
                f"{printable(arguments.name)}: version {facts['version']:,}, published {_seconds(facts['age'])} ago,"
                f" vouched for {_seconds(staleness)} ago, writer {'alive' if facts['alive'] else 'dead'},"
                f" codec {facts['codec']}"
            )
            print_value(snapshot.value)
    except RecursionError as error:
        raise ShmStateError(f"state {arguments.name!r} is nested too deeply to be printed") from error
    return 0


def _show_bytes(arguments: argparse.Namespace) -> int:
    version, payload, codec = read_undecoded(arguments.name)
    if arguments.json:
        facts = {"name": arguments.name, "version": version, "codec": codec, "hex": payload.hex()}
        print(json.dumps(facts, indent=2))
    else:
        print(f"{printable(arguments.name)}: version {version:,}, {len(payload):,} bytes, codec {codec}")
        for line in _hex_lines(payload):
            print(line)
    return 0


def _hex_lines(payload: bytes) -> Iterator[str]:
    """As ``hexdump -C`` has it; lines that repeat the one before are left out, and a * says so."""
    before, is_told = b"", False
    for start in range(0, len(payload), 16):
        row = payload[start : start + 16]
        if row == before and start + 16 < len(payload):
            if not is_told:
                yield "*"
            is_told = True
            continue
        before, is_told = row, False
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{start:08x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  |{text}|"


def _watch(arguments: argparse.Namespace) -> int:
    with _reader(arguments.name, arguments.codec) as reader:
        version, seen = 0, 0
        while arguments.count is None or seen < arguments.count:
            try:
                snapshot = reader.wait(after=version)
            except WriterGone:
                break
            missed, version, seen = snapshot.version - version - 1 if seen else 0, snapshot.version, seen + 1
            if arguments.json:
                facts = {"version": version, "missed": missed, "age": snapshot.age, "value": jsonable(snapshot.value)}
                print(json.dumps(facts), flush=True)
            else:
                also = f" ({missed:,} more since)" if missed else ""
                value = pprint.pformat(snapshot.value, width=120, compact=True, sort_dicts=False)
                print(f"{version:,}{also}: {value}", flush=True)
    return 0


def _top(arguments: argparse.Namespace) -> int:
    looks = Looks(arguments.prefix)
    if arguments.json:
        for states in looks.every(arguments.interval, arguments.count):
            print(json.dumps([{**state._asdict(), "rate": looks.rate(state.name)} for state in states]), flush=True)
    else:
        with _screen() as show:
            for states in looks.every(arguments.interval, arguments.count):
                rows = [{**_cells(state), "rate": _rate(looks.rate(state.name))} for state in states]
                show(rows, f"no state{_beginning_with(arguments.prefix)}")
    return 0


def _rate(rate: Optional[float]) -> str:
    return "" if rate is None else f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"


@contextlib.contextmanager
def _screen() -> Iterator[Callable[[List[Dict[str, str]], str], None]]:
    """What shows one table after another: in place with rich on a terminal, below each other otherwise."""
    live = None
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            from rich.live import Live

            live = Live(screen=True, auto_refresh=False)

    def show(rows: List[Dict[str, str]], otherwise: str) -> None:
        if live is not None:
            live.update(_rich_table(_headings(rows), rows) if rows else otherwise, refresh=True)
        elif rows:
            _print_plain_table(_headings(rows), rows)
            print(flush=True)
        else:
            print(otherwise, flush=True)

    with live or contextlib.nullcontext():
        yield show


def _reader(name: str, codec: Optional[str]) -> StateReader:
    try:
        return StateReader(name, codec=codec)
    except CodecMismatch as error:
        if codec is not None:
            raise
        raise CodecMismatch(
            f"{error}. With this command: --codec, for the built-in ones. Unpickling runs code that the state's writer"
            f" chose: only where you trust it"
        ) from error


def _reclaim(arguments: argparse.Namespace) -> int:
    removed = shmstate.reclaim(arguments.prefix, name=arguments.exact, dry_run=arguments.dry_run)
    if arguments.json:
        print(json.dumps({"would_remove" if arguments.dry_run else "removed": removed}))
    else:
        for name in removed:
            print(f"{'would remove' if arguments.dry_run else 'removed'} {printable(name)}")
        if not removed:
            which = f" whose name is {arguments.exact!r}" if arguments.exact else _beginning_with(arguments.prefix)
            print(f"nothing to remove{which}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from shmstate.demo.run import Options, demonstrate

    return demonstrate(
        Options(arguments.workers, arguments.files, arguments.start_method, arguments.json, arguments.plain)
    )


def _seconds(seconds: Optional[float]) -> str:
    return "" if seconds is None else duration(seconds * 1e6)


def _beginning_with(prefix: str) -> str:
    return f" whose name begins with {prefix!r}" if prefix else ""
