"""Approvals: a statement that waits for people, the rules of who may decide, and where decisions come from."""
