"""SQLAlchemy 2 over psycopg and asyncpg: expressions, the ORM with its flushes and upserts, and reflection of the whole schema."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, JSONB, insert
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.support.endpoint import Endpoint
from tests.support.postgres_server import PostgresServer


def address(endpoint: Endpoint, driver: str, role: str, database: str) -> sa.URL:
    parameters = endpoint.parameters(role, database)
    return sa.URL.create(f"postgresql+{driver}", role, parameters["password"], parameters["host"], endpoint.port, database)


@pytest.fixture
def engine(endpoint: Endpoint, database: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(address(endpoint, "psycopg", "readwrite", database))
    yield engine
    engine.dispose()


class Base(orm.DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]
    email: orm.Mapped[str]
    password: orm.Mapped[str]
    tags: orm.Mapped[list[str]] = orm.mapped_column(ARRAY(sa.Text))
    settings: orm.Mapped[dict[str, Any]] = orm.mapped_column(JSONB)
    orders: orm.Mapped[list[Order]] = orm.relationship(
        back_populates="customer", cascade="all, delete-orphan", passive_deletes=True
    )


class Order(Base):
    __tablename__ = "orders"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    customer_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("customers.id"))
    status: orm.Mapped[str] = orm.mapped_column(
        ENUM("new", "paid", "shipped", "returned", name="order_status", create_type=False)
    )
    total: orm.Mapped[Decimal] = orm.mapped_column(sa.Numeric(12, 2))
    total_with_tax: orm.Mapped[Decimal] = orm.mapped_column(sa.Numeric(12, 2), sa.Computed("total * 1.2"))
    placed_at: orm.Mapped[dt.datetime] = orm.mapped_column(sa.DateTime(timezone=True))
    customer: orm.Mapped[Customer] = orm.relationship(back_populates="orders")


def test_selects_joins_and_aggregates(engine: sa.Engine) -> None:
    query = (
        sa.select(Customer.name, sa.func.count(Order.id), sa.func.sum(Order.total))
        .join(Order)
        .where(Customer.id.in_([1, 2, 3]), Order.status == "paid")
        .group_by(Customer.id, Customer.name)
        .order_by(Customer.id)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    assert [(name, type(total)) for name, _, total in rows] == [("Customer 2", Decimal)]


def test_the_orm_writes_a_graph_and_reads_it_back(engine: sa.Engine) -> None:
    placed = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    with orm.Session(engine) as session:
        customer = Customer(name="Zoë", email="zoe@shop.example", password="p", tags=["a", "b"], settings={"x": [1]})
        customer.orders = [Order(status="new", total=Decimal("10.50"), placed_at=placed) for _ in range(3)]
        session.add(customer)
        session.commit()
        number = customer.id
        assert [order.total_with_tax for order in customer.orders] == [Decimal("12.60")] * 3
    with orm.Session(engine) as session:
        found = session.get_one(Customer, number, options=[orm.selectinload(Customer.orders)])
        assert (found.tags, found.settings, len(found.orders)) == (["a", "b"], {"x": [1]}, 3)
        found.orders[0].status = "paid"
        session.delete(found.orders[1])
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).where(Order.customer_id == number)) == 2
        session.delete(found)
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).where(Order.customer_id == number)) == 0


def test_bulk_inserts_return_keys_and_upserts_update(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        rows = [
            {"name": f"Bulk {n}", "email": f"bulk{n}@shop.example", "password": "p", "tags": [], "settings": {}}
            for n in range(1200)
        ]
        keys = session.scalars(sa.insert(Customer).returning(Customer.id, sort_by_parameter_order=True), rows).all()
        assert len(set(keys)) == 1200
        statement = insert(Customer).values(rows[:2])
        upsert = statement.on_conflict_do_update(index_elements=["email"], set_={"name": statement.excluded.name + "!"})
        assert session.scalars(upsert.returning(Customer.name)).all() == ["Bulk 0!", "Bulk 1!"]
        session.rollback()


def test_savepoints_keep_what_came_before(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        session.execute(sa.update(Customer).where(Customer.id == 1).values(name="kept"))
        with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
            session.execute(sa.update(Customer).values(email="same@shop.example"))
        session.commit()
        assert session.get_one(Customer, 1).name == "kept"


def test_server_side_cursors_stream_in_parts(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        result = connection.execute(sa.text("SELECT id FROM accounts ORDER BY id"), execution_options={"stream_results": True})
        assert [len(part) for part in result.partitions(300)] == [300] * 16 + [200]


def reflection(connection: sa.Connection) -> dict[str, Any]:
    """All that SQLAlchemy finds out about the schema."""
    inspector = sa.inspect(connection)
    found: dict[str, Any] = {"schemas": inspector.get_schema_names(), "default": inspector.default_schema_name}
    for schema in ("public", "prod"):
        for name, ask in {
            "columns": inspector.get_multi_columns,
            "keys": inspector.get_multi_pk_constraint,
            "foreign": inspector.get_multi_foreign_keys,
            "indexes": inspector.get_multi_indexes,
            "checks": inspector.get_multi_check_constraints,
            "unique": inspector.get_multi_unique_constraints,
            "comments": inspector.get_multi_table_comment,
        }.items():
            found[f"{schema} {name}"] = repr(sorted(ask(schema=schema, kind=ObjectKind.ANY).items()))  # type: ignore[attr-defined]
        found[f"{schema} views"] = [
            (view, inspector.get_view_definition(view, schema)) for view in inspector.get_view_names(schema)
        ]
        found[f"{schema} enums"] = inspector.get_enums(schema)  # type: ignore[attr-defined]
    metadata = sa.MetaData()
    metadata.reflect(connection, views=True)
    found["tables"] = {
        table.name: [re.sub(r" at 0x\w+", "", repr(column)) for column in table.columns] for table in metadata.sorted_tables
    }
    return found


def test_reflects_the_schema_as_the_target_does(engine: sa.Engine, postgres: PostgresServer, database: str) -> None:
    control = sa.create_engine(address(postgres.endpoint, "psycopg", "readwrite", database))
    with control.connect() as connection:
        expected = reflection(connection)
    control.dispose()
    with engine.connect() as connection:
        found = reflection(connection)
    assert found == expected
    assert {"customers", "orders", "events", "accounts", "customer_contacts"} <= found["tables"].keys()


def test_a_broken_connection_is_replaced(engine: sa.Engine, postgres: PostgresServer, database: str) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    with postgres.admin() as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database])
    postgres.wait_for_sessions(0, database, "readwrite")
    with pytest.raises(sa.exc.OperationalError), engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


async def test_the_async_orm_over_asyncpg(endpoint: Endpoint, database: str) -> None:
    engine = create_async_engine(address(endpoint, "asyncpg", "readwrite", database))
    async with AsyncSession(engine) as session:
        names = (await session.scalars(sa.select(Customer.name).where(Customer.id < 4).order_by(Customer.id))).all()
        assert names == ["Customer 1", "Customer 2", "Customer 3"]
        session.add(Customer(name="Async", email="async@shop.example", password="p", tags=[], settings={"k": None}))
        await session.commit()
        found = (await session.scalars(sa.select(Customer).where(Customer.email == "async@shop.example"))).one()
        assert found.settings == {"k": None}
        result = await session.stream(sa.select(Order.id).order_by(Order.id).execution_options(yield_per=500))
        assert [number async for (number,) in result] == list(range(1, 2001))
    async with engine.connect() as connection:
        tables = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
        assert "customers" in tables
    await engine.dispose()
