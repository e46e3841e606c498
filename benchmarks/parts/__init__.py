"""What is measured: a module each, whose ``measure`` returns what goes into the results."""
