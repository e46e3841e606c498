"""What the compiler leaves out of a handler's range: CPython handles signals at backward jumps too.

In some shapes the compilers of 3.12 to 3.14 leave the jump of an ``if`` at the end of a loop out of the table of the
``try`` or ``with`` around the loop. An exception from a signal handler there keeps what the handler would release.
"""

from __future__ import annotations

import ast
import dis
import sys
import types
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

import shmstate


def loops_in_tries(tree: ast.AST, is_inside: bool = False) -> Iterator[ast.stmt]:
    """Give the loops in the body of a `try` or `with`, not those in functions that are made there."""
    for child in ast.iter_child_nodes(tree):
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef))
        is_body = isinstance(tree, (ast.With, ast.AsyncWith)) or (isinstance(tree, ast.Try) and child in tree.body)
        is_in_one = not is_function and (is_inside or is_body)
        if is_in_one and isinstance(child, (ast.While, ast.For, ast.AsyncFor)):
            yield child
        yield from loops_in_tries(child, is_in_one)


def functions_of(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from functions_of(constant)


def table_of(code: types.CodeType) -> List[Any]:
    return list(dis._parse_exception_table(code))  # type: ignore[attr-defined]


def jumps_without_a_handler(source: str, table_of: Callable[[types.CodeType], List[Any]] = table_of) -> List[str]:
    """Name the backward jumps of loops in a `try` or `with` that no handler of their function covers."""
    lines = {loop.lineno for loop in loops_in_tries(ast.parse(source))}
    found = []
    for code in functions_of(compile(source, "source", "exec")):
        covered = {at for start, stop, *_ in table_of(code) for at in range(start, stop)}
        at_line = {step.offset: step.positions.lineno for step in dis.get_instructions(code)}  # type: ignore[attr-defined]
        for step in dis.get_instructions(code):
            if "JUMP_BACKWARD" in step.opname and at_line.get(step.argval) in lines and step.offset not in covered:
                found.append(f"{code.co_name}, from line {at_line[step.offset]} to line {at_line[step.argval]}")
    return found


SOURCES = [path for path in sorted(Path(shmstate.__file__).parent.rglob("*.py")) if "try" in path.read_text()]
UNCOVERED = """
def follow(lock, items):
    with lock:
        for item in items:
            if item:
                item()
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="handlers have no table there")
def test_each_backward_jump_of_a_loop_in_a_try_has_a_handler() -> None:
    assert {
        str(path): jumps for path in SOURCES for jumps in [jumps_without_a_handler(path.read_text())] if jumps
    } == {}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="handlers have no table there")
def test_a_backward_jump_that_a_table_leaves_out_is_found() -> None:
    found = jumps_without_a_handler(UNCOVERED, lambda _: [])

    assert found
    assert all(jump.startswith("follow, from line ") and jump.endswith("to line 4") for jump in found)
