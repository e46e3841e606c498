"""The kit's commands: ``python -m pytest_shmstate.kit check | replay | mutants | explore``."""

# ruff: noqa: T201 - its work is to print
from __future__ import annotations

import argparse
import importlib
import sys
from inspect import isabstract
from typing import Any, List, Optional

from pytest_shmstate.kit.extra import EXTRA, missing

try:
    from pytest_shmstate.kit import again, checkup
    from pytest_shmstate.kit.checkup import ENGINES
    from pytest_shmstate.kit.exploring import explored
    from pytest_shmstate.kit.oracle.verdict import OK, VIOLATED
    from pytest_shmstate.kit.power import power
    from pytest_shmstate.kit.seams.adapter import Adapter
    from pytest_shmstate.kit.stepping.nursery import StepperFailed
    from pytest_shmstate.kit.stepping.schedules import Diverged
except ModuleNotFoundError as _error:
    if _error.name not in EXTRA:
        raise
    print(missing(_error.name), file=sys.stderr)
    sys.exit(3)

#: Exit statuses: of what was judged, and of a command that cannot be done.
_STATUS = {OK: 0, VIOLATED: 1}
_UNKNOWN, _USAGE = 2, 3


class NoAdapter(LookupError):
    """What was named is no adapter."""


#: What says that a command cannot be done. All else is a mistake in the kit, and comes with its traceback.
_CANNOT = (LookupError, ValueError, Diverged, StepperFailed)


def main(arguments: Optional[List[str]] = None) -> int:
    """Do what the command line says. 0: it holds; 1: it does not; 2: nobody can tell; 3: that cannot be done."""
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
    except _CANNOT as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return _USAGE
    except SystemExit as end:  # argparse's, whose 2 would be taken for ours
        return _USAGE if end.code else 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_shmstate.kit", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="look for a schedule under which a structure breaks",
        epilog="exit status: 0 it holds; 1 it does not; 2 nobody can tell; 3 that cannot be done",
    )
    _add_structure(check)
    check.add_argument("--engine", action="append", choices=ENGINES, help="this one alone; may be given again")
    check.add_argument("--examples", type=int, default=100, help="of the stepper (%(default)s)")
    check.add_argument("--seconds", type=float, default=5.0, help="of stress (%(default)s)")
    check.add_argument(
        "--folder", help="where stress saves a history that is wrong (a new one in the temporary directory)"
    )
    check.add_argument("--undisturbed", action="store_true", help="the stepper stops and kills nobody")
    check.set_defaults(run=_check)

    replay = commands.add_parser("replay", help="take a schedule again that check has printed")
    _add_structure(replay)
    replay.add_argument("schedule", help="all of what stands in quotes in the line that begins with 'replay:'")
    replay.set_defaults(run=_replay)

    mutants = commands.add_parser("mutants", help="hunt mutants of shmstate, and print which engine killed which")
    mutants.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    mutants.add_argument("--markdown", action="store_true", help="print the table as docs/mutants.md has it")
    mutants.set_defaults(run=_mutants)

    explore = commands.add_parser("explore", help="explore shmstate's own scenarios, and print their certificates")
    explore.add_argument("names", nargs="*", metavar="NAME", help="these alone")
    explore.add_argument("--thorough", action="store_true", help="the larger ones too, which take minutes")
    explore.set_defaults(run=_explore)
    return parser


def _add_structure(command: argparse.ArgumentParser) -> None:
    command.add_argument("adapter", metavar="MODULE:NAME", help="an Adapter, or a class or function that makes one")
    command.add_argument("--by-line", action="append", default=[], metavar="MODULE", help="hands shm.buf to C")
    command.add_argument(
        "--waits-for-writers", action="store_true", help="reads may wait for a writer that stands still"
    )


def _check(options: argparse.Namespace) -> int:
    report = checkup.check(
        adapter_called(options.adapter),
        engines=options.engine or ENGINES,
        examples=options.examples,
        seconds=options.seconds,
        by_line=options.by_line,
        waits_for_writers=options.waits_for_writers,
        disturbed=not options.undisturbed,
        folder=options.folder,
        note=lambda finding: print(finding, flush=True),
    )
    print(report.summary)
    return _STATUS.get(report.outcome, _UNKNOWN)


def _replay(options: argparse.Namespace) -> int:
    adapter = adapter_called(options.adapter)
    holds, told = again.replay(
        adapter, options.schedule, by_line=options.by_line, waits_for_writers=options.waits_for_writers
    )
    print(told)
    return 0 if holds else 1


def adapter_called(named: str) -> Adapter:
    """The adapter ``MODULE:NAME``. Raises NoAdapter, which says what is there instead."""
    module, colon, name = named.partition(":")
    if not (module and colon and name):
        raise NoAdapter(f"{named!r} is not MODULE:NAME, such as my_package.adapters:MyAdapter")
    if "" not in sys.path:  # `python -m` has put it there; the script that pip installs has not
        sys.path.insert(0, "")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise NoAdapter(f"{named}: {module} cannot be imported: {error}") from error
        raise NoAdapter(f"{named}: there is no module {module!r} here, nor on PYTHONPATH") from error
    except Exception as error:
        raise NoAdapter(f"{named}: importing {module} raised {type(error).__name__}: {error}") from error
    if not hasattr(imported, name):
        adapters = ", ".join(_adapters_in(imported)) or "no adapter"
        raise NoAdapter(f"{named}: {module} has no {name!r}; it has {adapters}")
    return _made(named, getattr(imported, name))


def _adapters_in(module: Any) -> List[str]:
    found = [(name, value) for name, value in vars(module).items() if isinstance(value, (Adapter, type))]
    return [n for n, v in found if isinstance(v, Adapter) or (issubclass(v, Adapter) and not isabstract(v))]


def _made(named: str, found: Any) -> Adapter:
    if isinstance(found, Adapter):
        return found
    if not callable(found):
        raise NoAdapter(f"{named} is a {type(found).__name__}: neither an Adapter nor what makes one")
    try:
        made = found()
    except Exception as error:
        raise NoAdapter(f"{named}() raised {type(error).__name__}: {error}; name an adapter that is made") from error
    if not isinstance(made, Adapter):
        raise NoAdapter(f"{named}() is a {type(made).__name__}, not a pytest_shmstate.kit.Adapter")
    return made


def _mutants(options: argparse.Namespace) -> int:
    unknown = set(options.names) - set(power.NAMES)
    if unknown:
        raise LookupError(f"no mutant {', '.join(sorted(unknown))}; there are {', '.join(power.NAMES)}")
    kills = []
    for kill in power.hunt_all(options.names or power.NAMES):
        kills.append(kill)
        if not options.markdown:
            print(kill, flush=True)
    if options.markdown:
        print(power.markdown(kills))
    left = power.survivors(kills)
    print(f"{len(kills) - len(left)} of {len(kills)} killed" + (f"; SURVIVORS: {', '.join(left)}" if left else ""))
    return 1 if left else 0


def _explore(options: argparse.Namespace) -> int:
    stages = {**explored.QUICK, **(explored.THOROUGH if options.thorough or options.names else {})}
    unknown = set(options.names) - set(stages)
    if unknown:
        raise LookupError(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(stages)}")
    outcomes = []
    for name in options.names or stages:
        certificate = explored.certify(stages[name])
        outcomes.append(certificate.outcome)
        print(f"[{name}] {certificate}", flush=True)
    if VIOLATED in outcomes:
        return 1
    return 0 if set(outcomes) == {OK} else _UNKNOWN


if __name__ == "__main__":
    sys.exit(main())
