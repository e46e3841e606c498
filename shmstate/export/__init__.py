"""``shmstate export --prometheus``: what is known of this machine's states, for a monitoring system.

rates     how often each state is published, measured between scrapes
metrics   the states as metrics
command   options; serving them by HTTP, or writing them once

Only ``metrics`` needs prometheus_client when it is imported, and only the command imports it, when it is run.
"""

from __future__ import annotations
