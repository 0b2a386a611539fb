"""Says at the head of each test session which variant of the hot modules it tests. No property fails because a machine is slow."""

from __future__ import annotations

from importlib.util import find_spec

from hypothesis import settings

from tools.compile import HOT_MODULES

settings.register_profile("patient", settings(), deadline=None)  # on top of what hypothesis chose, as its own for CI
settings.load_profile("patient")


def pytest_report_header() -> str:
    variants = []
    for name in HOT_MODULES:
        found = find_spec(name.removesuffix(".py").replace("/", "."))
        variant = "absent" if found is None else "compiled" if str(found.origin).endswith(".so") else "plain Python"
        variants.append(f"{name} {variant}")
    return f"hot modules: {', '.join(variants)}"
