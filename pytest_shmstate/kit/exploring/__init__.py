"""Every schedule of a small scenario, in one process, under three memory models."""
