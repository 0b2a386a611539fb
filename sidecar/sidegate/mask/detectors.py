"""The registry: every detector by its name. A policy names one of these; docs/coverage/detectors.md is made from this table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidegate.mask.detect import (
    aws_access_key,
    email,
    github_token,
    google_api_key,
    iban,
    jwt,
    payment_card,
    pem_private_key,
    slack_token,
    stripe_key,
    us_ssn,
)
from sidegate.mask.detect.detector import Detector

DETECTORS: Final[Mapping[str, Detector]] = {
    module.DETECTOR.name: module.DETECTOR
    for module in (
        payment_card,
        us_ssn,
        email,
        iban,
        aws_access_key,
        github_token,
        slack_token,
        stripe_key,
        google_api_key,
        jwt,
        pem_private_key,
    )
}
DETECTOR_NAMES: Final[frozenset[str]] = frozenset(DETECTORS)
