"""What a gate and the operator's gateway say to each other, and the rules that both apply. Pure; docs/gateway.md is the protocol."""
