"""The experiments, and the peers, measured: ``python -m benchmarks --help``. Never a gate."""
