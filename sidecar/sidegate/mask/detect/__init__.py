"""Detectors, one a file: a pattern, the proof that a match is what it looks like, and what it is easily confused with."""
