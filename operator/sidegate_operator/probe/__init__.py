"""When the ways into each target that avoid its gate are tried, by the operator that leads."""
