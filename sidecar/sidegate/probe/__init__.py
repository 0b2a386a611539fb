"""Trying the ways into a target that avoid its gate: which of them answer, and how. Used by the operator and by `sidegate doctor`."""
