"""States of other machines: a Gateway on each answers for its own, FleetQuery asks them from anywhere.

Needs eclipse-zenoh, Python 3.9 or newer: ``pip install 'shmstate[fleet]'``. Importing this needs neither.
"""

from __future__ import annotations

from shmstate.fleet.asking import FleetQuery
from shmstate.fleet.changes import Change, Changes
from shmstate.fleet.gateway import Gateway, GatewayStats
from shmstate.fleet.replies import HostAnswer, Problem, Replies

__all__ = ["Change", "Changes", "FleetQuery", "Gateway", "GatewayStats", "HostAnswer", "Problem", "Replies"]
