"""What a signature under a decision covers: admission signs these bytes, the gate that runs the statement verifies them.

Rules it keeps:
- It names one request by its uid: the same decision under another request of the same fingerprint is a forged one.
- It covers everything that makes the decision count: what was asked (the fingerprint covers the rule and its terms), who decided, as a
  member of which groups, what, when, and what they said.
- One reading only: a JSON list of strings, so that no value can run into the next.

Left out: keys and the signature itself (Ed25519).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

_DOMAIN: Final = "sidegate.dev/decision/v1"  # a signature for anything else is none for this


@dataclass(frozen=True, slots=True)
class SealedDecision:
    """`at` exactly as the request has it."""

    namespace: str
    name: str
    uid: str
    fingerprint: str
    by: str
    groups: tuple[str, ...]
    decision: str
    at: str
    comment: str

    def to_bytes(self) -> bytes:
        parts = [_DOMAIN, self.namespace, self.name, self.uid, self.fingerprint, self.by, self.decision, self.at, self.comment]
        return json.dumps([*parts, *self.groups], ensure_ascii=True, separators=(",", ":")).encode("ascii")
