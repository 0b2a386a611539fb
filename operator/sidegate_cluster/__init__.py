"""The commands of `sidegate` for a cluster. See docs/commands.md."""
