"""Mutants, and the table of which engine kills which."""
