"""Write crds/ and docs/reference/ from the API types: `python -m tools.write_crds`, or `--check` to only say whether they are current."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from sidegate.api.reference import index_page, reference_page
from sidegate.api.schema import RESOURCES, custom_resource_definition
from tools.made_files import ROOT, write_or_check

HEADER: Final = "# Made by `make crds` from the types in `sidecar/sidegate/api`. Change it there.\n"


class _Dumper(yaml.SafeDumper):
    """Lists indented under their key, and no anchors: what equals something else is written out again."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def crd_text(document: Mapping[str, Any]) -> str:
    return HEADER + yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def wanted_files() -> dict[Path, str]:
    """Every file that follows from the types, with its text."""
    files = {ROOT / "docs" / "reference" / "README.md": index_page(RESOURCES)}
    for resource in RESOURCES:
        files[ROOT / "crds" / resource.file_name] = crd_text(custom_resource_definition(resource))
        files[ROOT / "docs" / "reference" / f"{resource.singular}.md"] = reference_page(resource)
    return files


def main(arguments: list[str]) -> int:
    return write_or_check(wanted_files(), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
