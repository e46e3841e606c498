"""The command ``shmstate``: what is in shared memory, what it says, and what nobody owns any more."""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import pprint
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence

import shmstate
from shmstate import CodecMismatch, ShmStateError, StateInfo, StateReader
from shmstate.demo.units import duration, size

FAILED, USAGE, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
EPILOG = f"""\
exit status:
  0    done; for `demo`: all of it held
  {FAILED}    failed, or not found; stderr says why
  {USAGE}    wrong usage
  {INTERRUPTED}  interrupted (143: by SIGTERM)
  {CLOSED_PIPE}  whoever read the output closed it
"""
_HEADINGS = ("name", "writer", "pid", "version", "size", "age", "stale", "memory", "codec", "problem")
_RIGHT = {"pid", "version", "size", "age", "stale", "memory"}


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
    show.set_defaults(command=_show)

    reclaim = commands.add_parser("reclaim", help="remove states that dead writers left")
    reclaim.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only names that begin so")
    reclaim.set_defaults(command=_reclaim)

    demo = commands.add_parser("demo", help="see it work: workers parse the standard library and are watched")
    demo.add_argument("--workers", type=_positive, metavar="N", help="default: as many as cores, 4 at least")
    demo.add_argument("--files", type=_positive, metavar="N", help="parse the first N files only")
    demo.add_argument("--start-method", choices=("spawn", "fork", "forkserver"), default="spawn", help="default: spawn")
    demo.add_argument("--plain", action="store_true", help="lines of text, also on a terminal")
    demo.set_defaults(command=_demo)

    for command in (ls, show, reclaim, demo):
        command.add_argument("--json", action="store_true", help="for programs")
        command.epilog, command.formatter_class = parser.epilog, parser.formatter_class
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


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
        "name": _printable(state.name),
        "writer": ("alive" if state.alive else "dead") if known else "",
        "pid": str(state.owner_pid) if known else "",
        "version": f"{state.version:,}" if known else "",
        "size": size(state.nbytes) if state.version else "",
        "age": _seconds(state.age),
        "stale": _seconds(state.staleness),
        "memory": size(state.memory) if known else "",
        "codec": state.codec,
        "problem": _printable(state.problem),
    }


def _print_table(rows: List[Dict[str, str]]) -> None:
    headings = [heading for heading in _HEADINGS if heading != "problem" or any(row[heading] for row in rows)]
    if not _print_rich_table(headings, rows):
        widths = {heading: max(len(heading), *(len(row[heading]) for row in rows)) for heading in headings}
        for row in ({heading: heading.upper() for heading in headings}, *rows):
            cells = (
                row[heading].rjust(widths[heading]) if heading in _RIGHT else row[heading].ljust(widths[heading])
                for heading in headings
            )
            print("  ".join(cells).rstrip())


def _print_rich_table(headings: List[str], rows: List[Dict[str, str]]) -> bool:
    """Print a table with rich, if it is installed and there is a terminal; returns whether it did."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[heading]) for heading in headings), style="" if row["writer"] == "alive" else "dim")
    Console().print(table)
    return True


def _show(arguments: argparse.Namespace) -> int:
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
                f"{_printable(arguments.name)}: version {facts['version']:,}, published {_seconds(facts['age'])} ago,"
                f" vouched for {_seconds(staleness)} ago, writer {'alive' if facts['alive'] else 'dead'},"
                f" codec {facts['codec']}"
            )
            _print_value(snapshot.value)
    except RecursionError as error:
        raise ShmStateError(f"state {arguments.name!r} is nested too deeply to be printed") from error
    return 0


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


def _print_value(value: Any) -> None:
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.pretty import Pretty
        except ImportError:
            pass
        else:
            Console().print(Pretty(value))
            return
    print(pprint.pformat(value, width=120, sort_dicts=False))


def jsonable(value: Any) -> Any:
    """What JSON has for ``value``: bytes become ``{"base64": ...}``, what it lacks altogether its ``repr``."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        names = [key if isinstance(key, str) else repr(key) for key in value]
        if len(set(names)) < len(names):  # {1: ..., "1": ...}
            return [[jsonable(key), jsonable(item)] for key, item in value.items()]
        return {name: jsonable(item) for name, item in zip(names, value.values())}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return repr(value)


def _reclaim(arguments: argparse.Namespace) -> int:
    removed = shmstate.reclaim(arguments.prefix)
    if arguments.json:
        print(json.dumps({"removed": removed}))
    else:
        for name in removed:
            print(f"removed {_printable(name)}")
        if not removed:
            print(f"nothing to remove{_beginning_with(arguments.prefix)}")
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


def _printable(text: str) -> str:
    """``text`` without what would act upon a terminal: anybody can give a file in /dev/shm any name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
