"""What `import shmstate` gives, and what it does not load."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import List, Sequence

import pytest

import pytest_shmstate
import shmstate
from pytest_shmstate import kit
from shmstate import errors

#: The names that the README introduces. Taking one away breaks those who read it.
FRONT_DOOR = {
    "Codec",
    "list_states",
    "QueryService",
    "reclaim",
    "Snapshot",
    "StateReader",
    "StateSync",
    "StateWriter",
    "WorkerPool",
}
#: What an import may not cost those who did not ask for the extra.
EXTRAS = {
    "greenlet",
    "hypothesis",
    "matplotlib",
    "msgspec",
    "numpy",
    "prometheus_client",
    "psutil",
    "pytest",
    "pytest_shmstate",
    "rich",
    "xdist",
    "zenoh",
}


def out_of_order(names: Sequence[str]) -> List[str]:
    """Each name that stands before one that should come first, upper and lower case alike."""
    return [name for name, after in zip(names, names[1:]) if (name.casefold(), name) >= (after.casefold(), after)]


def not_exported(module: ModuleType, names: Sequence[str]) -> List[str]:
    """Public names bound in the module, submodules aside, that are missing from ``names``."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations" and name not in names
    ]


def loaded_by(statement: str) -> List[str]:
    """The extras that a fresh Python has loaded after ``statement``."""
    script = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=60)
    return sorted(EXTRAS & set(done.stdout.decode().split()))


def test_all_is_sorted_without_regard_to_case() -> None:
    assert out_of_order(shmstate.__all__) == []


def test_a_name_out_of_order_and_one_given_twice_are_found() -> None:
    assert out_of_order(["Codec", "list_states", "Answer", "Snapshot", "Snapshot"]) == ["list_states", "Snapshot"]


def test_all_holds_every_public_name_of_the_package_and_no_other() -> None:
    assert not_exported(shmstate, shmstate.__all__) == []
    assert [name for name in shmstate.__all__ if not hasattr(shmstate, name)] == []
    assert FRONT_DOOR - set(shmstate.__all__) == set()


def test_every_error_is_exported() -> None:
    assert not_exported(errors, shmstate.__all__) == []
    assert all(getattr(shmstate, name) is value for name, value in vars(errors).items() if inspect.isclass(value))


def test_a_name_that_is_not_exported_is_found() -> None:
    names = [name for name in shmstate.__all__ if name not in ("NameInUse", "StateReader")]

    assert not_exported(errors, names) == ["NameInUse"]
    assert sorted(not_exported(shmstate, names)) == ["NameInUse", "StateReader"]


def test_every_error_is_a_shmstate_error_drawn_in_the_tree() -> None:
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}

    assert [name for name, value in classes.items() if not issubclass(value, errors.ShmStateError)] == []
    assert [name for name in classes if name not in str(errors.__doc__)] == []


@pytest.mark.parametrize("package", [shmstate, pytest_shmstate], ids=lambda package: package.__name__)
def test_the_package_says_that_it_is_typed(package: ModuleType) -> None:
    assert Path(str(package.__file__)).with_name("py.typed").is_file()


def test_importing_shmstate_loads_no_extra() -> None:
    assert loaded_by("import shmstate") == []


def test_importing_the_command_loads_no_extra() -> None:
    assert loaded_by("import shmstate.cli") == []


def test_an_extra_that_was_loaded_is_found() -> None:
    assert loaded_by("import shmstate, pytest") == ["pytest"]


def test_the_kit_exports_what_it_says_in_whatever_order_it_is_asked() -> None:
    # A submodule that is imported becomes an attribute of its package: none may have the name of something exported.
    script = (
        "from pytest_shmstate import kit\nfor name in kit.__all__ * 2: print(name, type(getattr(kit, name)).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=60)

    told = done.stdout.decode().splitlines()

    assert len(told) == 2 * len(kit.__all__) > 20
    assert [line for line in told if line.endswith(" module")] == []
    assert out_of_order(kit.__all__) == []
    assert kit.__all__ == list(kit._HOMES)


def test_importing_the_kit_loads_no_extra() -> None:
    assert loaded_by("import pytest_shmstate.kit") == ["pytest_shmstate"]
