"""The engine by itself: reading and deciding a statement the first time and again, under masks, and monsters. In the bench's own process.

The base is `parser`: PostgreSQL's parser alone on the same text, by pglast. A first statement is one whose normal form nobody sent before.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Final

from pglast.parser import ParseError, parse_sql_json

from sidegate.policy.config import (
    AddressConfig,
    ColumnMatch,
    GateConfig,
    GrantConfig,
    PolicyConfig,
    Protocol,
    RuleAction,
    RuleConfig,
    SubjectConfig,
    TargetConfig,
)
from sidegate.policy.decision import Allow
from sidegate.policy.engine import Engine
from sidegate.policy.principal import Principal
from sidegate.postgres.catalog import Catalog
from sidegate.postgres.judge import Judge
from sidegate.postgres.statements import Work
from sidegate.sql import ParseProblem, StatementCache, analyse
from tests.bench.report import Report

ORDINARY: Final = (
    "SELECT id, name, ssn FROM people WHERE id = 17",
    "SELECT p.name, count(*), max(o.total) FROM people p JOIN orders o ON o.person = p.id WHERE o.placed > now() - interval '7 days'"
    " GROUP BY p.name ORDER BY 2 DESC LIMIT 20",
    "WITH recent AS (SELECT person, sum(total) AS spent FROM orders GROUP BY person) SELECT p.id, p.name, upper(p.ssn), r.spent FROM people p"
    " LEFT JOIN recent r ON r.person = p.id WHERE r.spent > 100 ORDER BY r.spent DESC",
    "INSERT INTO orders (person, total, note) VALUES (1, 9.5, 'x'), (2, 3, NULL) ON CONFLICT (id) DO UPDATE SET total = excluded.total",
    "UPDATE orders o SET note = p.name FROM people p WHERE p.id = o.person AND o.total > 5 RETURNING o.id",
)
MONSTERS: Final[dict[str, str]] = {
    "nested_queries": "SELECT * FROM " + "(SELECT * FROM " * 400 + "t" + ") q" * 400,
    "joins": "SELECT 1 FROM t" + "".join(f" JOIN t t{number} ON true" for number in range(2_000)),
    "in_list": f"SELECT 1 FROM t WHERE a IN ({','.join(map(str, range(400_000)))})",
    "parentheses": "SELECT " + "(" * 9_000 + "1" + ")" * 9_000,
    "operators": "SELECT 1" + " + 1" * 100_000,
}
REPEATS: Final = 2_000
FIRSTS: Final = 200
NOW: Final = 1_800_000_000.0


def _judge() -> Judge:
    mask = RuleConfig("columns", RuleAction.MASK, columns=(ColumnMatch("ssn"),))
    kinds = ("Read", "Insert", "Update", "Delete", "Explain")
    grants = (GrantConfig(databases=("*",), role="app", allow=kinds),)
    policy = PolicyConfig("bench", "open", subjects=(SubjectConfig(groups=("all",)),), grants=grants, rules=(mask,))
    target = TargetConfig("bench", "bench", Protocol.POSTGRES, "bench", AddressConfig("127.0.0.1", 5432), 5432)
    config = GateConfig.sealed(target, (policy,))
    principal = Principal(issuer="https://bench", subject="1", username="ada", groups=frozenset({"all"}))
    judge = Judge(Engine(config), principal, "shop", "app", StatementCache(4096))
    judge.search_path = ("public",)
    tables = {1: ("people", ("id", "name", "ssn")), 2: ("orders", ("id", "person", "total", "note", "placed"))}
    columns = [
        tuple(str(part).encode() for part in (oid, "public", name, "r", number, column))
        for oid, (name, names) in tables.items()
        for number, column in enumerate(names, 1)
    ]
    judge.learn_catalog(Catalog.decode(columns, [], [], 1), NOW)
    return judge


def _decide(judge: Judge, text: str) -> None:
    statements, problem = judge.read(text)
    assert problem is None, text
    decision = judge.decide(Work(1, text, statements, is_simple=True), NOW)
    assert isinstance(decision, Allow), decision


def _us(run: Callable[[str], object], texts: Sequence[str]) -> float:
    """Microseconds that one of these texts takes, on average."""
    started = time.perf_counter_ns()
    for text in texts:
        run(text)
    return (time.perf_counter_ns() - started) / len(texts) / 1e3


def engine(report: Report, rounds: int) -> None:
    """Microseconds a statement: the mean over ordinary SQL, in each round."""
    for number in range(rounds):
        judge = _judge()
        decide = functools.partial(_decide, judge)
        # Another name in each: nothing of it was read before
        fresh = [
            text.replace("total", f"total{number}_{each}", 1) for each in range(FIRSTS) for text in ORDINARY if "total" in text
        ]
        report.sample("engine_first", "engine", "us", _us(decide, fresh))
        report.sample("engine_first", "parser", "us", _us(_parse, fresh))
        report.sample("engine_repeated", "engine", "us", _us(decide, ORDINARY * REPEATS))
        report.sample("engine_repeated", "parser", "us", _us(_parse, ORDINARY * FIRSTS))
        constants = [ORDINARY[0].replace("17", str(each)) for each in range(REPEATS)]
        report.sample("engine_other_constants", "engine", "us", _us(decide, constants))
        report.sample("engine_other_constants", "parser", "us", _us(_parse, constants))
        for name, text in MONSTERS.items():
            report.sample(f"engine_monster_{name}", "engine", "us", _us(lambda text: analyse(text, ("public",)), [text]))
            report.sample(f"engine_monster_{name}", "parser", "us", _us(_parse, [text]))
    for name, text in MONSTERS.items():
        answer = analyse(text, ("public",))
        report.note(f"monster_{name}", answer.message if isinstance(answer, ParseProblem) else "read")


def _parse(text: str) -> None:
    try:
        parse_sql_json(text)
    except ParseError:
        return
