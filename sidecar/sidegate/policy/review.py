"""Advice to policy authors: what can't work, what never matters, and what may not mean what its author thinks.

Rules it keeps:
- Errors are what the engine would have to refuse at run time: they stop the compilation. Warnings and notes never do.
- Every check is one function from resources to findings; none depends on the order of the resources.
- The clock isn't read: checks that need a moment take `now`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from sidegate.api.access_policy import AccessPolicy, PolicyMode
from sidegate.api.protected_target import ProtectedTarget
from sidegate.api.rule import PolicyRule, RuleAction, StatementKind
from sidegate.policy.decision import MaskStrategy, strictest
from sidegate.policy.expression import ExpressionError, check_expression
from sidegate.policy.finding import Finding, error, name_of, note, warning
from sidegate.policy.shadow import shadows
from sidegate.policy.validity import zone

PolicyCheck = Callable[[AccessPolicy], Iterator[Finding]]
BoundCheck = Callable[[ProtectedTarget, Sequence[AccessPolicy]], Iterator[Finding]]


def review_bound(
    target: ProtectedTarget, policies: Sequence[AccessPolicy], detectors: frozenset[str] | None = None
) -> Iterator[Finding]:
    """Everything to say about one target and the policies bound to it."""
    for policy in policies:
        for check in _POLICY_CHECKS:
            yield from check(policy)
        yield from _unknown_detectors(policy, detectors)
    for bound_check in _BOUND_CHECKS:
        yield from bound_check(target, policies)


def review_unbound(targets: Sequence[ProtectedTarget], unbound: Iterable[AccessPolicy]) -> Iterator[Finding]:
    """Policies that are about no target. They are reviewed for themselves all the same."""
    known = ", ".join(sorted({f"`{target.metadata.namespace}/{target.metadata.name}`" for target in targets})) or "none"
    for policy in unbound:
        yield warning(
            name_of(policy),
            "spec.targets",
            "the policy is about no target",
            f"correct names, selector, environments or the policy's namespace; the targets there are: {known}",
        )
        for check in _POLICY_CHECKS:
            yield from check(policy)


def review_time(policy: AccessPolicy, now: float) -> Iterator[Finding]:
    """Policies whose time is over: they grant nothing any more, and their rules still hold."""
    validity = policy.spec.validity
    if validity is None or validity.not_after is None or now < validity.not_after.epoch_s:
        return
    still = ", and its rules still hold" if policy.spec.rules else ""
    yield warning(
        name_of(policy),
        "spec.validity.notAfter",
        f"the policy grants nothing any more{still}",
        "delete it, or set a later notAfter",
    )


def _expressions(policy: AccessPolicy) -> Iterator[Finding]:
    for index, subject in enumerate(policy.spec.subjects):
        if subject.expression is None:
            continue
        try:
            check_expression(subject.expression)
        except ExpressionError as problem:
            yield error(name_of(policy), f"spec.subjects[{index}].expression", str(problem), problem.way_forward)


def _zones(policy: AccessPolicy) -> Iterator[Finding]:
    for index, window in enumerate(policy.spec.validity.windows if policy.spec.validity else ()):
        if zone(str(window.time_zone)) is None:
            yield error(
                name_of(policy),
                f"spec.validity.windows[{index}].timeZone",
                f"time zone `{window.time_zone}` isn't known",
                "use a name of the IANA database, as in `Europe/Berlin`, and give the gate's image a tzdata that has it",
            )


def _validity_without_grants(policy: AccessPolicy) -> Iterator[Finding]:
    if policy.spec.validity is not None and not policy.spec.grants:
        yield warning(
            name_of(policy),
            "spec.validity",
            "validity limits grants, and the policy has none: its rules hold at all times",
            "leave validity out; for a restriction with a term, apply the policy when it starts and delete it when it ends",
        )


def _rule_names(policy: AccessPolicy) -> Iterator[Finding]:
    for name, count in Counter(str(rule.name) for rule in policy.spec.rules).items():
        if count > 1:
            yield error(name_of(policy), "spec.rules", f"{count} rules are named `{name}`", "give each rule a name of its own")


def _observing(policy: AccessPolicy) -> Iterator[Finding]:
    if policy.spec.mode is not PolicyMode.OBSERVE:
        return
    yield warning(
        name_of(policy),
        "spec.mode",
        "the policy only observes: what its rules refuse or hold passes, and for those whom only such policies name, what nobody grants",
        "set mode: Enforce when the records show what you expect",
    )
    for index, rule in enumerate(policy.spec.rules):
        if rule.match.statements is not None and rule.match.statements.rows_affected is not None:
            yield note(
                name_of(policy),
                f"spec.rules[{index}].match.statements.rowsAffected",
                "row limits aren't measured in Observe mode",
                "expect this rule in the records only where another policy's rule has the statement measured",
            )


def _approvers(policy: AccessPolicy) -> Iterator[Finding]:
    """The requester never counts among the approvers, so terms that only requesters could meet are met by fewer than it seems."""
    groups = {str(group) for subject in policy.spec.subjects for group in subject.groups}
    users = {str(user) for subject in policy.spec.subjects for user in subject.users}
    for index, rule in enumerate(policy.spec.rules):
        if rule.approval is None:
            continue
        approver_groups = {str(group) for group in rule.approval.approvers.groups}
        approver_users = {str(user) for user in rule.approval.approvers.users}
        path = f"spec.rules[{index}].approval.approvers"
        if not approver_groups and approver_users <= users and len(approver_users) - 1 < rule.approval.required:
            yield warning(
                name_of(policy),
                path,
                "the approvers are requesters themselves, and without the one who asks too few are left",
                "name someone else, or a group",
            )
        elif approver_groups <= groups and approver_users <= users:
            yield warning(
                name_of(policy),
                path,
                "the approvers are the requesters: they can approve for each other",
                "name a group that isn't among the subjects",
            )


def _unreachable(policy: AccessPolicy) -> Iterator[Finding]:
    """Rules of one policy have the same subjects, so what another one there denies anyway is never reached."""
    for index, rule in enumerate(policy.spec.rules):
        for other_index, other in enumerate(policy.spec.rules):
            if (
                other_index != index
                and other.action is RuleAction.DENY
                and shadows(other, rule)
                and _is_later(policy, index, other_index)
            ):
                yield warning(
                    name_of(policy),
                    f"spec.rules[{index}]",
                    f"rule `{rule.name}` is never reached: rule `{other.name}` denies all that it matches",
                    "leave one of them out, or narrow the one that denies",
                )
                break


def _is_later(policy: AccessPolicy, index: int, other_index: int) -> bool:
    """Of two rules that deny the same, only the second is said to be unreachable."""
    rules = policy.spec.rules
    return other_index < index or not shadows(rules[index], rules[other_index]) or rules[index].action is not RuleAction.DENY


def _unmaskable_grants(policy: AccessPolicy) -> Iterator[Finding]:
    if not any(rule.match.columns for rule in policy.spec.rules):
        return
    for index, grant in enumerate(policy.spec.grants):
        refused = sorted(kind.value for kind in grant.postgres.allow if kind in _NEVER_MASKABLE)
        if refused:
            yield warning(
                name_of(policy),
                f"spec.grants[{index}].postgres.allow",
                f"{', '.join(f'`{kind}`' for kind in refused)} is refused to everyone whose columns are masked, as this policy's are",
                "leave it out, or grant it in a policy for people whose columns aren't masked",
            )


_NEVER_MASKABLE: Final = frozenset({StatementKind.DO, StatementKind.SERVER, StatementKind.REPLICATION})


def _masks_by_table(policy: AccessPolicy) -> Iterator[Finding]:
    for index, rule in enumerate(policy.spec.rules):
        for column_index, column in enumerate(rule.match.columns):
            if len(column.parts) > 1:
                yield note(
                    name_of(policy),
                    f"spec.rules[{index}].match.columns[{column_index}]",
                    f"`{column}` is masked in that table alone: a view, a partition or a copy of it has another name",
                    f"write `{column.parts[-1]}` to mask the column wherever it is",
                )


_POLICY_CHECKS: Final[tuple[PolicyCheck, ...]] = (
    _expressions,
    _zones,
    _validity_without_grants,
    _rule_names,
    _observing,
    _approvers,
    _unreachable,
    _unmaskable_grants,
    _masks_by_table,
)


def _unknown_detectors(policy: AccessPolicy, detectors: frozenset[str] | None) -> Iterator[Finding]:
    if detectors is None:
        return
    for index, rule in enumerate(policy.spec.rules):
        for detector in rule.match.values.detectors if rule.match.values else ():
            if detector.value not in detectors:
                yield error(
                    name_of(policy),
                    f"spec.rules[{index}].match.values.detectors",
                    f"this version has no detector `{detector.value}`",
                    f"choose from {', '.join(sorted(detectors))}",
                )


def _duplicate_names(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> Iterator[Finding]:
    for name, count in Counter(map(name_of, policies)).items():
        if count > 1:
            yield error(name, "metadata.name", f"{count} policies have this name", "give each policy a name of its own")


def _roles_without_credential(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> Iterator[Finding]:
    roles = {str(credential.role) for credential in target.spec.credentials}
    for policy in policies:
        for index, grant in enumerate(policy.spec.grants):
            if str(grant.postgres.role) not in roles:
                known = ", ".join(f"`{role}`" for role in sorted(roles)) or "none"
                yield error(
                    name_of(policy),
                    f"spec.grants[{index}].postgres.role",
                    f"target `{target.metadata.name}` has no credential for role `{grant.postgres.role}`",
                    f"add it to the target's spec.credentials, or grant one of those there are: {known}",
                )


def _nothing_granted(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> Iterator[Finding]:
    if not any(policy.spec.grants for policy in policies):
        yield warning(
            name_of(target),
            "spec",
            "no policy grants anything on the target: everyone with a token is refused",
            "write an AccessPolicy with grants whose spec.targets picks this target",
        )


def _rules_without_grant(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> Iterator[Finding]:
    """Rules about kinds that nobody is granted on this target. Code that can't be seen into could be any kind."""
    granted = {kind for policy in policies for grant in policy.spec.grants for kind in grant.postgres.allow}
    if not granted or granted & {StatementKind.CALL, StatementKind.DO}:
        return
    for policy in policies:
        for index, rule in enumerate(policy.spec.rules):
            kinds = set(rule.match.statements.kinds) if rule.match.statements else set()
            if kinds and kinds.isdisjoint(granted):
                yield note(
                    name_of(policy),
                    f"spec.rules[{index}].match.statements.kinds",
                    f"nobody is granted {', '.join(sorted(f'`{kind.value}`' for kind in kinds))} on target `{target.metadata.name}`, "
                    f"so rule `{rule.name}` changes nothing",
                    "leave it out, or keep it as a guard against later grants",
                )


def _callers(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> Iterator[Finding]:
    identity = target.spec.identity
    networks = {str(each.environment) for each in identity.caller_networks}
    has_claim = any(issuer.claims.environment is not None for issuer in identity.issuers)
    for policy, index, rule in _rules(policies):
        if rule.match.caller is None or has_claim:
            continue
        named = {str(each) for each in (*rule.match.caller.environments, *rule.match.caller.not_environments)}
        missing = sorted(named - networks)
        if missing:
            effect = "never matches" if rule.match.caller.environments else "matches every caller"
            yield warning(
                name_of(policy),
                f"spec.rules[{index}].match.caller",
                f"no caller of target `{target.metadata.name}` can be in environment `{missing[0]}`, so the rule {effect}"
                if set(missing) == named
                else f"no caller of target `{target.metadata.name}` can be in environment `{missing[0]}`",
                "give the target identity.callerNetworks for it, or an issuer with claims.environment",
            )


def _agents(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> Iterator[Finding]:
    if any(issuer.claims.agent is not None for issuer in target.spec.identity.issuers):
        return
    for policy in policies:
        for index, subject in enumerate(policy.spec.subjects):
            if subject.agents:
                yield warning(
                    name_of(policy),
                    f"spec.subjects[{index}].agents",
                    f"no issuer of target `{target.metadata.name}` names agents, so the entry matches nobody",
                    "give the issuer claims.agent, as in `azp`",
                )


def _mask_conflicts(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> Iterator[Finding]:
    """One column or detector masked in different ways: what shows least is used where the same person meets both."""
    ways: defaultdict[str, dict[MaskStrategy, str]] = defaultdict(dict)
    places: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for policy, index, rule in _rules(policies):
        if rule.action is not RuleAction.MASK:
            continue
        strategy = MaskStrategy(rule.mask.strategy.value) if rule.mask else MaskStrategy.REDACT
        things = [f"column `{column.folded}`" for column in rule.match.columns]
        things += [f"detector `{each.value}`" for each in (rule.match.values.detectors if rule.match.values else ())]
        for thing in things:
            ways[thing].setdefault(strategy, f"{policy.metadata.name}#{rule.name}")
            places[thing].append((name_of(policy), f"spec.rules[{index}]"))
    for thing, found in ways.items():
        if len(found) < 2:
            continue
        chosen = strictest(found)
        ruled = ", ".join(f"{rule} says {strategy.value}" for strategy, rule in sorted(found.items(), key=lambda item: item[1]))
        for resource, path in places[thing]:
            yield warning(
                resource,
                path,
                f"{thing} is masked in different ways ({ruled}): who meets both sees {chosen.value}",
                "use one strategy, or keep the subjects apart",
            )


def _budgets_without_masks(target: ProtectedTarget, policies: Sequence[AccessPolicy]) -> Iterator[Finding]:
    """Masked values are counted where something is masked."""
    rules = [rule for _, _, rule in _rules(policies)]
    if any(rule.action is RuleAction.MASK for rule in rules):
        return
    for policy, index, rule in _rules(policies):
        if rule.match.budget is not None and rule.match.budget.masked_values is not None:
            yield warning(
                name_of(policy),
                f"spec.rules[{index}].match.budget.maskedValues",
                f"nothing is masked on target `{target.metadata.name}`, so no masked value is ever counted",
                "add a Mask rule, with detectors for values that may be anywhere, or leave maskedValues out",
            )


def _rules(policies: Sequence[AccessPolicy]) -> Iterator[tuple[AccessPolicy, int, PolicyRule]]:
    for policy in policies:
        for index, rule in enumerate(policy.spec.rules):
            yield policy, index, rule


_BOUND_CHECKS: Final[tuple[BoundCheck, ...]] = (
    _duplicate_names,
    _roles_without_credential,
    _nothing_granted,
    _rules_without_grant,
    _callers,
    _agents,
    _mask_conflicts,
    _budgets_without_masks,
)
