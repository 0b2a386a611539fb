"""What can never widen: properties of the engine over generated policies, principals, statements and times.

A decision is wider than another when it lets more through (Deny < RequireApproval < Measure < Allow) or obliges to fewer masks.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sidegate.policy.config import (
    AddressConfig,
    ApprovalConfig,
    BudgetConfig,
    CallerMatch,
    ColumnMatch,
    CredentialConfig,
    GateConfig,
    GrantConfig,
    PolicyConfig,
    PolicyMode,
    Protocol,
    RuleAction,
    RuleConfig,
    StatementMatch,
    SubjectConfig,
    TargetConfig,
    ValidityConfig,
    WindowConfig,
    decode_config,
    encode_config,
)
from sidegate.policy.decision import Allow, ColumnUse, Decision, Deny, MaskStrategy, Measure, RequireApproval
from sidegate.policy.engine import Engine, SessionGrant, decide, decide_all, decide_session
from sidegate.policy.principal import Principal
from sidegate.policy.source import PolicyRule
from sidegate.policy.statement import (
    ColumnRef,
    FunctionRef,
    Impact,
    RelationRef,
    Spent,
    SqlStatement,
    StatementContext,
    StatementKind,
)
from sidegate.policy.trace import Trace

NOW = 1_764_064_800.0  # 2025-11-25T10:00:00Z, a Tuesday
TARGET = TargetConfig(
    "default",
    "shop",
    Protocol.POSTGRES,
    "production",
    AddressConfig("127.0.0.1", 5432),
    5432,
    credentials=(CredentialConfig("reader", "reader"),),
)
ADA = Principal(
    "https://issuer.example", "1", "ada", frozenset({"ai", "data"}), agent="cursor", environment="office", claims={"team": "x"}
)
TRUE, FALSE, BROKEN, FAILING = "claims.team == 'x'", "claims.team == 'y'", "claims.team ==", "claims.missing == 'x'"
RANK = {Deny: 0, RequireApproval: 1, Measure: 2, Allow: 3}
KIND_NAMES = ["Read", "Insert", "Update", "Delete", "DDL", "Call", "Do", "Roles", "Settings", "Explain", "CopyOut", "Maintenance"]

schemas = st.sampled_from(["app", "prod", "pg_catalog"])
tables = st.sampled_from(["users", "orders"])


def some(values: st.SearchStrategy[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(values, max_size=most, unique=True).map(tuple)


subjects = st.sampled_from(
    [
        SubjectConfig(groups=("ai",)),
        SubjectConfig(groups=("hr",)),
        SubjectConfig(users=("ada",), agents=("cursor",)),
        SubjectConfig(expression=TRUE),
        SubjectConfig(expression=FALSE),
        SubjectConfig(expression=BROKEN),
        SubjectConfig(groups=("ai",), expression=FAILING),
        SubjectConfig(),
    ]
)
windows = st.sampled_from(
    [
        WindowConfig((0, 1, 2, 3, 4), 480, 1080, "Europe/Berlin"),
        WindowConfig((5, 6), 480, 1080, "Europe/Berlin"),
        WindowConfig((1,), 0, 1440, "Europe/Atlantis"),
    ]
)
validities = st.builds(
    ValidityConfig,
    not_before=st.sampled_from([None, None, NOW - 1000, NOW + 30]),
    not_after=st.sampled_from([None, None, NOW + 1000, NOW - 30]),
    windows=st.lists(windows, max_size=1).map(tuple),
)
grants = st.builds(
    GrantConfig,
    databases=st.sampled_from([("shop",), ("*",), ("other",)]),
    role=st.sampled_from(["reader", "reader", "reader", "writer"]),
    allow=st.lists(st.sampled_from(KIND_NAMES), min_size=1, max_size=6, unique=True).map(tuple),
    schemas=some(st.sampled_from(["app", "prod", "*"])),
    functions=some(st.sampled_from(["app.safe_*", "app.other"])),
)
matches = st.builds(
    StatementMatch,
    kinds=st.one_of(some(st.sampled_from([*KIND_NAMES, "Transaction", "FromTheFuture"])), st.just(("Delete",))),
    databases=some(st.sampled_from(["shop", "other"]), 1),
    schemas=some(schemas),
    tables=some(st.sampled_from(["users", "app.orders", "prod.*"])),
    functions=some(st.sampled_from(["safe_total", "app.*"]), 1),
    rows_more_than=st.sampled_from([None, None, 10, 100]),
)
callers = st.sampled_from(
    [None, None, CallerMatch(("office",), ()), CallerMatch((), ("office",)), CallerMatch((), ("production",))]
)
approvals = st.sampled_from(
    [
        None,
        ApprovalConfig(("dba",)),
        ApprovalConfig(("dba",), (), 2),
        ApprovalConfig((), ("eve",)),
        ApprovalConfig(("dba", "sec"), (), 1, 60.0),
    ]
)
statement_rules = st.builds(
    RuleConfig,
    name=st.sampled_from(["r1", "r2", "r3"]),
    action=st.sampled_from([RuleAction.DENY, RuleAction.REQUIRE_APPROVAL]),
    statements=st.one_of(st.none(), matches, matches),
    caller=callers,
    approval=approvals,
    budget=st.sampled_from([None, None, BudgetConfig(statements=4), BudgetConfig(rows=10), BudgetConfig(10, 100, 5)]),
)
mask_rules = st.builds(
    RuleConfig,
    name=st.sampled_from(["m1", "m2"]),
    action=st.just(RuleAction.MASK),
    columns=st.lists(
        st.sampled_from([ColumnMatch("ssn"), ColumnMatch("email", "users"), ColumnMatch("ssn", "orders", "app")]), max_size=2
    ).map(tuple),
    detectors=some(st.sampled_from(["email", "ssn"])),
    strategy=st.sampled_from(list(MaskStrategy)),
    use=st.sampled_from(list(ColumnUse)),
)
rules = st.one_of(statement_rules, mask_rules)
policies = st.builds(
    PolicyConfig,
    namespace=st.just("default"),
    name=st.sampled_from(["a", "b", "c", "d"]),
    mode=st.sampled_from([PolicyMode.ENFORCE, PolicyMode.ENFORCE, PolicyMode.OBSERVE]),
    subjects=st.lists(subjects, max_size=2).map(tuple),
    validity=st.one_of(st.just(ValidityConfig()), validities),
    grants=st.lists(grants, max_size=2).map(tuple),
    rules=st.lists(rules, max_size=3).map(tuple),
)
policy_lists = st.lists(policies, min_size=1, max_size=4, unique_by=lambda policy: policy.name).map(tuple)
# Mostly policies that let something through, so that a widening has somewhere to show.
GENEROUS = PolicyConfig(
    "default",
    "z",
    subjects=(SubjectConfig(groups=("ai",)),),
    grants=(GrantConfig(("shop",), "reader", tuple(KIND_NAMES), functions=("app.*",)),),
)
generous_lists = policy_lists.map(lambda found: (*found, GENEROUS))
configs = st.one_of(policy_lists, generous_lists, generous_lists).map(lambda found: GateConfig.sealed(TARGET, found))

relations = st.builds(RelationRef, tables, st.one_of(st.none(), st.frozensets(schemas, min_size=1, max_size=2)))
columns = st.builds(ColumnRef, st.sampled_from(["ssn", "email", "id", "*", "SSN"]), st.one_of(st.none(), relations))
functions = st.builds(
    FunctionRef, st.sampled_from(["safe_total", "other"]), st.one_of(st.none(), st.frozensets(schemas, max_size=2)), st.booleans()
)
USUAL = [StatementKind.READ, StatementKind.DELETE, StatementKind.INSERT, StatementKind.CALL, StatementKind.DDL, StatementKind.DO]


def statements_of(kinds: st.SearchStrategy[frozenset[StatementKind]], odd: bool) -> st.SearchStrategy[SqlStatement]:
    return st.builds(
        SqlStatement,
        text=st.just("select"),
        kinds=kinds,
        reads=st.frozensets(relations, max_size=2),
        writes=st.frozensets(relations, max_size=1),
        creates=st.frozensets(relations, max_size=1),
        schemas=st.one_of(st.none(), st.frozensets(schemas, max_size=2)),
        columns_output=st.frozensets(columns, max_size=2),
        columns_steering=st.frozensets(columns, max_size=1),
        functions=st.frozensets(functions, max_size=1),
        settings=st.sampled_from([(), (("role", "x"),), (("client_encoding", "latin1"),)]) if odd else st.just(()),
        affects_rows=st.booleans(),
        controls_transaction=st.booleans() if odd else st.just(False),
        dangers=st.sampled_from([(), ("reads pg_authid",)]) if odd else st.just(()),
        executes=st.sampled_from([None, "p"]) if odd else st.none(),
    )


statements = st.one_of(
    statements_of(st.frozensets(st.sampled_from(USUAL[:3]), min_size=1, max_size=2), odd=False),
    statements_of(st.frozensets(st.sampled_from(USUAL[:3]), min_size=1, max_size=1), odd=False),
    statements_of(st.frozensets(st.sampled_from(USUAL), min_size=1, max_size=3), odd=False),
    statements_of(st.frozensets(st.sampled_from(list(StatementKind)), max_size=3), odd=True),
)
contexts = st.builds(
    StatementContext,
    database=st.just("shop"),
    role=st.just("reader"),
    approved_fingerprint=st.sampled_from([None, None, "f"]),
    approved_rows=st.sampled_from([None, 50]),
    rows_so_far=st.sampled_from([0, 95]),
    spent=st.sampled_from([Spent(), Spent(4, 9, 4), Spent(4, 10, 0), Spent(10, 100, 5)]).flatmap(
        lambda spent: st.sampled_from(
            [{}, {PolicyRule("default", at, f"r{rule}"): spent for at in "abcdz" for rule in (1, 2, 3)}]
        )
    ),
    renews_budgets=st.booleans(),
)
impacts = st.one_of(st.none(), st.builds(Impact, st.sampled_from([0, 5, 20, 60, 5000])))


def rank(decision: Decision) -> int:
    return RANK[type(decision)]


def mask_parts(decision: Decision) -> set[object]:
    return set() if isinstance(decision, Deny) else {*decision.masks.columns, *decision.masks.values}


def assert_not_wider(narrow: Decision, wide: Decision) -> None:
    """The first lets through at most what the second does."""
    assert rank(narrow) <= rank(wide), (narrow, wide)
    if not isinstance(narrow, Deny):
        assert mask_parts(wide) <= mask_parts(narrow), (narrow, wide)
    if isinstance(narrow, RequireApproval) and isinstance(wide, RequireApproval):
        assert narrow.terms.required >= wide.terms.required
        assert narrow.terms.expires_after_s <= wide.terms.expires_after_s
    if isinstance(narrow, Measure) and isinstance(wide, Measure):
        assert narrow.more_than <= wide.more_than


def with_policy(config: GateConfig, index: int, policy: PolicyConfig) -> GateConfig:
    found = list(config.policies)
    found[index] = policy
    return GateConfig.sealed(config.target, tuple(found))


def ask(
    config: GateConfig, statement: SqlStatement, context: StatementContext, impact: Impact | None, now: float = NOW
) -> Decision:
    return decide(config, ADA, statement, context, now, impact)


ENOUGH = settings(max_examples=200, deadline=None)


@ENOUGH
@given(configs, statement_rules, st.data(), statements, contexts, impacts)
def test_adding_a_deny_never_widens(
    config: GateConfig,
    rule: RuleConfig,
    data: st.DataObject,
    statement: SqlStatement,
    context: StatementContext,
    impact: Impact | None,
) -> None:
    deny = msgspec.structs.replace(rule, action=RuleAction.DENY)
    index = data.draw(st.integers(0, len(config.policies) - 1))
    policy = config.policies[index]
    more = with_policy(config, index, msgspec.structs.replace(policy, rules=(*policy.rules, deny)))
    assert_not_wider(ask(more, statement, context, impact), ask(config, statement, context, impact))


@ENOUGH
@given(configs, rules, st.data(), statements, contexts, impacts)
def test_adding_any_rule_never_widens(
    config: GateConfig,
    rule: RuleConfig,
    data: st.DataObject,
    statement: SqlStatement,
    context: StatementContext,
    impact: Impact | None,
) -> None:
    index = data.draw(st.integers(0, len(config.policies) - 1))
    policy = config.policies[index]
    more = with_policy(config, index, msgspec.structs.replace(policy, rules=(*policy.rules, rule)))
    assert_not_wider(ask(more, statement, context, impact), ask(config, statement, context, impact))


@ENOUGH
@given(configs, policies, statements, contexts, impacts)
def test_adding_a_policy_without_grants_never_widens(
    config: GateConfig, policy: PolicyConfig, statement: SqlStatement, context: StatementContext, impact: Impact | None
) -> None:
    limiting = msgspec.structs.replace(policy, name="new", grants=())
    more = GateConfig.sealed(config.target, (*config.policies, limiting))
    assert_not_wider(ask(more, statement, context, impact), ask(config, statement, context, impact))


@ENOUGH
@given(configs, st.data(), statements, contexts, impacts)
def test_removing_a_grant_never_widens(
    config: GateConfig, data: st.DataObject, statement: SqlStatement, context: StatementContext, impact: Impact | None
) -> None:
    places = [(at, grant) for at, policy in enumerate(config.policies) for grant in range(len(policy.grants))]
    if not places:
        return
    at, index = data.draw(st.sampled_from(places))
    policy = config.policies[at]
    fewer = with_policy(config, at, msgspec.structs.replace(policy, grants=policy.grants[:index] + policy.grants[index + 1 :]))
    assert_not_wider(ask(fewer, statement, context, impact), ask(config, statement, context, impact))


@ENOUGH
@given(configs, st.data(), st.sampled_from([BROKEN, FAILING, "username", "'" * 3000]), statements, contexts, impacts)
def test_an_erroring_expression_never_widens(
    config: GateConfig, data: st.DataObject, error: str, statement: SqlStatement, context: StatementContext, impact: Impact | None
) -> None:
    """Neither against a false one, which is what its grants are, nor against a true one, which is what its rules are."""
    index = data.draw(st.integers(0, len(config.policies) - 1))
    answers = {
        expression: ask(
            with_policy(
                config, index, msgspec.structs.replace(config.policies[index], subjects=(SubjectConfig(expression=expression),))
            ),
            statement,
            context,
            impact,
        )
        for expression in (error, TRUE, FALSE)
    }
    assert_not_wider(answers[error], answers[TRUE])
    assert_not_wider(answers[error], answers[FALSE])


@ENOUGH
@given(configs, st.randoms(use_true_random=False), statements, contexts, impacts)
def test_the_order_of_policies_never_matters(
    config: GateConfig, random: object, statement: SqlStatement, context: StatementContext, impact: Impact | None
) -> None:
    shuffled = list(config.policies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = GateConfig(target=config.target, policies=tuple(shuffled), revision=config.revision)
    assert without_permits(ask(config, statement, context, impact)) == without_permits(ask(other, statement, context, impact))
    assert without_permits(decide_session(config, ADA, "shop", NOW)) == without_permits(decide_session(other, ADA, "shop", NOW))


def without_permits(answer: Decision | SessionGrant) -> object:
    """Permits are compared by what they cover: each is an object of its own."""
    if isinstance(answer, Deny):
        return answer
    if isinstance(answer, Allow) and isinstance(answer.observed, RequireApproval):
        answer = replace(answer, observed=replace(answer.observed, permit=None))
    return repr(answer.permit), replace(answer, permit=None)


@ENOUGH
@given(configs, st.data(), validities, statements, contexts, impacts)
def test_a_narrower_validity_never_widens(
    config: GateConfig,
    data: st.DataObject,
    validity: ValidityConfig,
    statement: SqlStatement,
    context: StatementContext,
    impact: Impact | None,
) -> None:
    index = data.draw(st.integers(0, len(config.policies) - 1))
    always = with_policy(config, index, msgspec.structs.replace(config.policies[index], validity=ValidityConfig()))
    narrow = with_policy(config, index, msgspec.structs.replace(config.policies[index], validity=validity))
    assert_not_wider(ask(narrow, statement, context, impact), ask(always, statement, context, impact))


@ENOUGH
@given(configs, policies, statements, contexts, impacts)
def test_masks_only_grow_when_policies_are_added(
    config: GateConfig, policy: PolicyConfig, statement: SqlStatement, context: StatementContext, impact: Impact | None
) -> None:
    more = GateConfig.sealed(config.target, (*config.policies, msgspec.structs.replace(policy, name="new")))
    before, after = ask(config, statement, context, impact), ask(more, statement, context, impact)
    if not isinstance(after, Deny):
        assert mask_parts(before) <= mask_parts(after)
    session_before, session_after = (decide_session(each, ADA, "shop", NOW, "reader") for each in (config, more))
    if isinstance(session_before, SessionGrant) and isinstance(session_after, SessionGrant):
        assert {*session_before.masks.columns, *session_before.masks.values} <= {
            *session_after.masks.columns,
            *session_after.masks.values,
        }


@ENOUGH
@given(configs, st.data(), statements, contexts, impacts)
def test_enforcing_what_was_observed_never_widens(
    config: GateConfig, data: st.DataObject, statement: SqlStatement, context: StatementContext, impact: Impact | None
) -> None:
    index = data.draw(st.integers(0, len(config.policies) - 1))
    modes = {
        mode: ask(
            with_policy(config, index, msgspec.structs.replace(config.policies[index], mode=mode)), statement, context, impact
        )
        for mode in PolicyMode
    }
    assert_not_wider(modes[PolicyMode.ENFORCE], modes[PolicyMode.OBSERVE])


@ENOUGH
@given(configs, statements, contexts, st.integers(0, 10_000), st.integers(0, 10_000))
def test_more_rows_never_widen(
    config: GateConfig, statement: SqlStatement, context: StatementContext, rows: int, more: int
) -> None:
    assert_not_wider(ask(config, statement, context, Impact(rows + more)), ask(config, statement, context, Impact(rows)))


@ENOUGH
@given(configs, statements, contexts, impacts)
def test_a_vaguer_statement_is_never_judged_wider(
    config: GateConfig, statement: SqlStatement, context: StatementContext, impact: Impact | None
) -> None:
    """A statement whose names could not be settled could be any of the settled ones."""

    def vague(found: frozenset[RelationRef]) -> frozenset[RelationRef]:
        return frozenset(RelationRef(each.name, None) for each in found)

    def vague_columns(found: frozenset[ColumnRef]) -> frozenset[ColumnRef]:
        return frozenset(ColumnRef(each.name, None) for each in found)

    vaguer = replace(
        statement,
        reads=vague(statement.reads),
        writes=vague(statement.writes),
        creates=vague(statement.creates),
        columns_output=vague_columns(statement.columns_output),
        columns_steering=vague_columns(statement.columns_steering),
        schemas=None,
        functions=frozenset(FunctionRef(each.name, None, each.is_known_safe) for each in statement.functions),
    )
    assert_not_wider(ask(config, vaguer, context, impact), ask(config, statement, context, impact))


@ENOUGH
@given(configs, st.lists(statements, min_size=1, max_size=3), contexts, impacts)
def test_a_string_of_statements_is_as_strict_as_its_strictest(
    config: GateConfig, several: list[SqlStatement], context: StatementContext, impact: Impact | None
) -> None:
    together = decide_all(config, ADA, several, context, NOW, impact)
    for statement in several:
        assert_not_wider(together, ask(config, statement, context, impact))


@ENOUGH
@given(configs, statements, contexts, impacts)
def test_a_trace_changes_nothing(
    config: GateConfig, statement: SqlStatement, context: StatementContext, impact: Impact | None
) -> None:
    trace = Trace()
    traced = decide(config, ADA, statement, context, NOW, impact, trace=trace)
    assert without_permits(traced) == without_permits(ask(config, statement, context, impact))
    assert trace.steps


times = st.sampled_from([NOW, NOW - 40, NOW + 25, NOW + 31, NOW + 70, NOW + 1001, NOW + 86400 * 4, NOW + 40_000])


@ENOUGH
@given(configs, st.lists(statements, min_size=1, max_size=3), st.lists(contexts, min_size=1, max_size=2), st.data())
def test_a_view_remembers_only_what_the_engine_would_answer(
    config: GateConfig, several: list[SqlStatement], asked_in: list[StatementContext], data: st.DataObject
) -> None:
    view = Engine(config).for_principal(ADA, "shop", "reader")
    elsewhere = StatementContext("shop", "writer")
    for _ in range(12):
        statement = data.draw(st.sampled_from(several))
        context = data.draw(st.sampled_from([*asked_in, elsewhere]))
        now, impact = data.draw(times), data.draw(impacts)
        fresh = GateConfig(target=config.target, policies=config.policies, revision=config.revision)
        expected = decide(fresh, ADA, statement, context, now, impact)
        assert without_permits(view.decide(statement, context, now, impact)) == without_permits(expected)
        same = replace(statement, text="another text")
        assert without_permits(view.decide(same, context, now, impact)) == without_permits(expected)
        several_now = [statement, same]
        assert without_permits(view.decide_all(several_now, context, now, impact)) == without_permits(
            decide_all(fresh, ADA, several_now, context, now, impact)
        )


@ENOUGH
@given(configs)
def test_a_config_survives_its_encoding_and_keeps_its_revision(config: GateConfig) -> None:
    assert decode_config(encode_config(config)) == config
