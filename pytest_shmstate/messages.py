"""What a controller and its workers tell each other where they share no file system: a line of JSON each way.

    controller -> worker    workerinput[TO_WORKER]      where the controller is, which run this is, what was asked for
    worker -> controller    workeroutput[FROM_WORKER]   where the worker was, and what is left there

JSON, since names in /dev/shm may be no text, which xdist's own way to send things does not take.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Optional

#: It changes when something in a message is renamed or goes, not when something is added.
FORMAT = 1
TO_WORKER, FROM_WORKER = "shmstate_run", "shmstate_left"
#: Where a worker was told of its ledger, and nothing else, before there were messages.
FOLDER = "shmstate_folder"


class NotUnderstood(ValueError):
    """A message of a plugin that speaks another format. The text says which versions met."""


def written(**content: Any) -> str:
    """A message."""
    return json.dumps({"format": FORMAT, "version": version(), **content})


def read(text: Optional[str], of: str) -> Dict[str, Any]:
    """The content of a message; ``of``: who wrote it. Raises ``NotUnderstood``."""
    if text is None:
        raise NotUnderstood(
            f"{of} has a pytest_shmstate that is older than {version()}, or none: install {version()} there"
        )
    try:
        content = json.loads(text)
        theirs, speaks = str(content["version"]), content["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise NotUnderstood(f"{of} sent no message of pytest_shmstate's, but {str(text)[:80]!r}") from error
    if speaks != FORMAT:
        raise NotUnderstood(
            f"{of} has pytest_shmstate {theirs}, which this one ({version()}) does not understand:"
            " install the same version on both"
        )
    return dict(content)


def version() -> str:
    """Of this plugin."""
    from shmstate import __version__

    return __version__
