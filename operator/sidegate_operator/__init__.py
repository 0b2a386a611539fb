"""The operator: from `AccessPolicy` and `ProtectedTarget` objects to gate configs; docs/architecture.md has the map."""
