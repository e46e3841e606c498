"""What is told of it: a module each, whose ``section`` makes words, tables and plots of the results alone."""
