"""Which path of the webhook is decided by what: each gathers what a pure function needs, and hands it over.

Left out: the decisions themselves, and listening.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from sidegate_operator.api_client import ApiClient, ApiError, read_or_none
from sidegate_operator.plan.gate_container import GateSettings
from sidegate_operator.plan.pods import left_out_by_admission
from sidegate_operator.resources import PROTECTED_TARGETS
from sidegate_operator.webhook import validate
from sidegate_operator.webhook.decide_approval import Seal, decide, operator_account
from sidegate_operator.webhook.inject import inject, target_name
from sidegate_operator.webhook.neighbours import read_neighbours
from sidegate_operator.webhook.review import Answer, Reason, Review, refuse
from sidegate_operator.webhook.server import Decider

LOG: Final = logging.getLogger(__name__)


def deciders(
    api: ApiClient, namespace: str, clock: Callable[[], float], seal: Callable[[], Seal | None], gate: GateSettings
) -> Mapping[str, Decider]:
    """By path. `namespace` is Sidegate's own."""
    operators = frozenset({operator_account(namespace)})
    left_out = left_out_by_admission(namespace)

    async def judge_ours(review: Review) -> Answer:
        neighbours = validate.Neighbours()
        if validate.needs_neighbours(review):
            try:
                neighbours = await read_neighbours(api, review.namespace)
            except ApiError as error:
                LOG.warning("the objects beside a review can't be read: %s", error)
                return refuse(
                    Reason.NEIGHBOURS_UNKNOWN,
                    "the targets and policies of the namespace can't be read, so this one can't be checked against them; "
                    "fix: try again, and see the log of the sidegate-webhook pods",
                    code=503,
                )
        # In a thread: many policies take a while to compile, and other reviews don't wait for that.
        return await asyncio.to_thread(validate.judge, review, neighbours, clock(), left_out)

    async def stamp(review: Review) -> Answer:
        by = seal()
        if by is None:
            return refuse(
                Reason.KEY_UNKNOWN,
                "there is no key to sign decisions with; fix: see the log of the sidegate-webhook pods for what is wrong with its Secret",
                code=503,
            )
        return decide(review, clock(), operators, by)

    async def add_gate(review: Review) -> Answer:
        name = target_name(review)
        try:
            stored = await read_or_none(api, PROTECTED_TARGETS, review.namespace, name) if name is not None else None
        except ApiError as error:
            LOG.warning("the target of a pod can't be read: %s", error)
            return refuse(
                Reason.TARGET_UNKNOWN,
                "the pod's ProtectedTarget can't be read; fix: make the pod again, and see the log of the sidegate-webhook pods",
                code=503,
            )
        return inject(review, stored, gate)

    return {"/inject": add_gate, "/validate": judge_ours, "/decide": stamp}
