"""The hook that others may implement, and how leaks get there."""

from __future__ import annotations

from typing import List, Optional

import pytest

from pytest_shmstate.leak import Leak


@pytest.hookspec()
def pytest_shmstate_leak(leak: Leak, item: Optional[pytest.Item]) -> None:
    """Called once for each leak. ``item``: the test that left it, in the process that ran it; otherwise None."""


def send(config: pytest.Config, leak: Leak, item: Optional[pytest.Item]) -> List[str]:
    """Call each implementation alone, so that an error in one keeps the leak from no other; the errors, a line each."""
    caller = (config.hook if item is None else item.ihook).pytest_shmstate_leak
    manager = config.pluginmanager
    errors = []
    for implementation in caller.get_hookimpls():
        others = [plugin for plugin in manager.get_plugins() if plugin is not implementation.plugin]
        try:
            manager.subset_hook_caller("pytest_shmstate_leak", others)(leak=leak, item=item)
        except (Exception, SystemExit, pytest.fail.Exception, pytest.skip.Exception) as error:
            name = f"{implementation.plugin_name}: {type(error).__name__}: {error}"
            errors.append(f"pytest_shmstate_leak failed for {leak.kind} {leak.name!r} in {name}")
    return errors


def item_of(leak: Leak, item: pytest.Item) -> Optional[pytest.Item]:
    """The test, if the leak is its own or of a fixture of its function."""
    owner = leak.owner
    is_wider = owner.what == "fixture" and owner.scope not in ("", "function")
    return item if not is_wider and item.nodeid in (owner.name, owner.during) else None
