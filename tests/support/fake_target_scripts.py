"""Random client messages in the SQL that `FakeTarget` knows. `script` is a strategy of lists of whole messages; names are few, so that they meet."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from tests.support import wire_messages as m

SELECTS: Final = (
    "select 1",
    "select id, secret from notes",
    "select secret from notes where id <= 2",
    "select 'word', 2",
    "select id from other",
    "select 1/0",
    "select id from nowhere",
    "select nothing from notes",
)
CHANGES: Final = (
    "insert into notes values (11, 'i-11')",
    "insert into notes values (12, 'i-12'), (1, 'again')",
    "delete from notes where id <= 1",
    "delete from notes",
    "delete from notes returning id, secret",
    "delete from other returning id",
)
BLOCKS: Final = ("begin", "commit", "rollback", "savepoint a", "rollback to savepoint a", "release savepoint a")
OTHERS: Final = (
    "create table made (id int primary key, secret text)",
    "drop table other",
    "truncate notes",
    "prepare p as select secret from notes",
    "prepare q as delete from notes where id <= 2",
    "execute p",
    "execute q",
    "deallocate p",
    "deallocate all",
    "declare c cursor for select id, secret from notes",
    "fetch 1 from c",
    "fetch 5 from c",
    "close c",
    "set search_path = public",
    "set search_path = elsewhere",
    "copy notes to stdout",
    "no sql",
    "",
)
WITH_PARAMETER: Final = (
    "select $1::text",
    "select secret from notes where id <= $1::int",
    "delete from notes where id <= $1::int",
)
TEXTS: Final = SELECTS + CHANGES + BLOCKS + OTHERS
NAMES: Final = ("", "s", "t")
PORTALS: Final = ("", "p1", "c")

names = st.sampled_from(NAMES)
portals = st.sampled_from(PORTALS)
text = st.sampled_from(TEXTS)
simple = st.one_of(
    st.builds(m.query, text),
    st.builds(lambda parts: m.query("; ".join(parts)), st.lists(text, min_size=2, max_size=3)),
)
values = st.sampled_from([[], [b"1"], [b"2"], [None]])
result_formats = st.sampled_from([(), (0,), (1,), (0, 1)])
usual = st.builds(
    lambda statement, wanted, rows, formats, parts: (
        m.parse(statement)
        + m.bind([b"2"] if "$1" in statement else (), result_formats=formats if len(formats) < 2 else ())
        + (m.describe_portal() if wanted else b"")
        + m.execute("", rows)
        + parts
    ),
    st.sampled_from(TEXTS + WITH_PARAMETER),
    st.booleans(),
    st.sampled_from([0, 0, 1, 2]),
    result_formats,
    st.sampled_from([b"", m.sync(), m.sync(), m.flush()]),
)
copy_rows = st.sampled_from([b"21\tx\n", b"22\ty\n23\tz\n", b"1\tdouble\n", b"24\t" + b"long" * 40 + b"\n", b"no number\n"])
copy_in = st.builds(
    lambda lines, end: m.query("copy notes from stdin") + b"".join(map(m.copy_data, lines)) + end,
    st.lists(copy_rows, max_size=4),
    st.sampled_from([m.copy_done(), m.copy_fail("enough")]),
)
extended_copy_in = st.builds(
    lambda lines, end: (
        m.close_statement("copying")
        + m.parse("copy notes from stdin", "copying")
        + m.bind(statement="copying")
        + m.execute()
        + b"".join(map(m.copy_data, lines))
        + end
        + m.sync()
    ),
    st.lists(copy_rows, max_size=4),
    st.sampled_from([m.copy_done(), m.copy_fail("enough")]),
)
message = st.one_of(
    simple,
    usual,
    usual,
    st.builds(m.parse, st.sampled_from(TEXTS + WITH_PARAMETER), names),
    st.builds(lambda v, s, p, f: m.bind(v, statement=s, portal=p, result_formats=f), values, names, portals, result_formats),
    st.builds(m.execute, portals, st.sampled_from([0, 1, 2])),
    st.builds(m.describe_portal, portals),
    st.builds(m.describe_statement, names),
    st.builds(m.close_portal, portals),
    st.builds(m.close_statement, names),
    st.just(m.sync()),
    st.just(m.flush()),
    copy_in,
    extended_copy_in,
    st.sampled_from([m.copy_data(b"stray"), m.copy_done(), m.copy_fail("stray")]),
)


def synced(messages: list[bytes]) -> list[bytes]:
    """With a Sync before each Query that follows an Execute: PostgreSQL 18 mixes the two up (it reports a transaction, and then fails with XX000)."""
    found: list[bytes] = []
    is_open = False
    for part in messages:
        if is_open and part.startswith(b"Q"):
            found.append(m.sync())
        found.append(part)
        if part[:1] not in (b"d", b"c", b"f"):
            is_open = not part.startswith(b"Q") and not part.endswith(m.sync())
    return found


script = st.lists(message, min_size=1, max_size=10).map(synced)

# Few names, many meanings: what a name stands for when it is used is the question.
meaning = st.sampled_from(
    ["select 1", "delete from notes", "create table made (id int primary key, secret text)", "select id from notes"]
)


def again(between: bytes) -> st.SearchStrategy[bytes]:
    """A name is given twice; what is between the two says whether the second can fail unseen, or be in place unconfirmed."""
    return st.builds(
        lambda first, second, name: (
            m.parse(first, name) + between + m.parse(second, name) + between + m.bind(statement=name) + m.execute()
        ),
        meaning,
        meaning,
        st.sampled_from(["", "s"]),
    )


name_script = st.lists(
    st.one_of(
        again(m.flush()),
        again(m.sync()),
        again(b""),
        st.builds(m.parse, meaning, st.sampled_from(["", "s"])),
        st.builds(lambda s, p: m.bind(statement=s, portal=p), st.sampled_from(["", "s"]), st.sampled_from(["", "p1"])),
        st.builds(m.execute, st.sampled_from(["", "p1"]), st.sampled_from([0, 1])),
        st.builds(lambda s: m.bind(statement=s) + m.execute(), st.sampled_from(["", "s"])),
        st.sampled_from([m.close_statement("s"), m.close_portal("p1"), m.query("deallocate all"), m.query("execute s")]),
        st.sampled_from([m.query("begin"), m.query("commit"), m.query("rollback"), m.query("prepare s as delete from notes")]),
        st.sampled_from([m.sync(), m.sync(), m.flush()]),
    ),
    min_size=1,
    max_size=14,
).map(synced)
