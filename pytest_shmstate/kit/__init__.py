"""The correctness kit: engines that look for schedules under which shared state breaks, and the oracle that judges them.

    explorer   in one process, every schedule of a small scenario, under three memory models
    stepper    real processes that stop before every shared access; Hypothesis, or an enumeration, says who goes on
    stress     real processes at full speed, which write down what they saw; judged afterwards

All three run an ``Adapter``: shmstate's own, or yours.
"""

from __future__ import annotations
