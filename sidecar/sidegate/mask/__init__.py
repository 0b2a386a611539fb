"""What a masked value looks like, and how values that must be masked are found by their content. Pure: no I/O, no clock, no randomness."""
