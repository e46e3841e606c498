"""Histories of publishes and reads, and the verdicts on them."""
