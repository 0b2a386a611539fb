"""The operator: from `AccessPolicy` and `ProtectedTarget` objects to gate configs. `plan` is pure; docs/architecture.md has the map."""
