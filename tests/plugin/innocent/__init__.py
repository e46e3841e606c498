"""A project whose tests leave nothing behind, each in a way that a leak detector may get wrong.

``tests/plugin/test_zero_false_blame.py`` runs it; so does ``pytest tests/plugin/innocent -p pytest_shmstate``. Each
``innocent_*.py`` lists its tests. ``guilty_one.py`` leaks, and is collected on request alone.
"""
