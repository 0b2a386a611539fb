"""What each kind of change leads to, and how it is carried out: gather, plan, write. One file for each kind. See docs/architecture.md."""
