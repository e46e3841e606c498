"""``shmstate demo``: workers parse the standard library, and are watched through shared memory while they do.

census    what a worker does, and the check that each of its states carries
watch     what the main process does: hand out files, query states, notice deaths
signals   Ctrl-C and SIGTERM
screen    what is seen meanwhile
report    what is said in the end
run       from start to end
"""

from __future__ import annotations
