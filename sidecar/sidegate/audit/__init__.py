"""Audit: one JSON event per fact, in a closed vocabulary, linked by hashes, written before what it tells of is done."""
