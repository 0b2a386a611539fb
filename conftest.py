"""Says at the head of each test session which variant of the hot modules it tests."""

from __future__ import annotations

from importlib.util import find_spec

from tools.compile import HOT_MODULES


def pytest_report_header() -> str:
    variants = []
    for name in HOT_MODULES:
        found = find_spec(name.removesuffix(".py").replace("/", "."))
        variant = "absent" if found is None else "compiled" if str(found.origin).endswith(".so") else "plain Python"
        variants.append(f"{name} {variant}")
    return f"hot modules: {', '.join(variants)}"
