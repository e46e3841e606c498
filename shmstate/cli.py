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
        print(f"no states{_beginning_with(arguments.prefix)}")
    return 0


def _cells(state: StateInfo) -> Dict[str, str]:
    if state.problem:
        return dict.fromkeys(_HEADINGS, "") | {} if False else {}
    return {}


def _print_table(rows: List[Dict[str, str]]) -> None: ...


def _beginning_with(prefix: str) -> str:
    return f" whose names begin with {prefix!r}" if prefix else ""
