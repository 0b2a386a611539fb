"""Recordings: one append-only, hash-chained file for each session, written ahead of what it tells of."""
