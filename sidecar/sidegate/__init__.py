"""Sidegate: privileged access management for AI assistants and people, enforced beside the target.

The packages are layers, each importing only those below it: `cli`, `runtime`, `postgres`, `approval | identity | record`,
`audit`, `mask`, `sql`, `policy`, `api`. docs/architecture.md says what each is for; import-linter holds the order.
"""

__version__ = "0.1.0"
