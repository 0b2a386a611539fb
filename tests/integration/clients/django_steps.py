"""What the Django test runs in a process of its own, since Django has one configuration a process. Prints JSON.

Arguments: host, port, user, database; the password is in PGPASSWORD.
"""

# mypy: disable-error-code="import-untyped, no-any-return"
from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

import django
from django.conf import settings

host, port, user, database = sys.argv[1:]
connect_to = {"HOST": host, "PORT": port, "USER": user, "NAME": database, "PASSWORD": os.environ["PGPASSWORD"]}
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **connect_to}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.postgres"],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, transaction  # noqa: E402
from django.db.models import Count, F, Q, TextField, Value  # noqa: E402
from django.db.models.functions import Concat, Lower  # noqa: E402


def inspected() -> dict[str, Any]:
    found: dict[str, Any] = {}
    with connection.cursor() as cursor:
        tables = connection.introspection.get_table_list(cursor)
        for table in sorted(tables):
            if table.name.startswith(("auth_", "django_")):
                continue
            found[table.name] = {
                "type": table.type,
                "columns": [repr(column) for column in connection.introspection.get_table_description(cursor, table.name)],
                "relations": repr(connection.introspection.get_relations(cursor, table.name)),
                "constraints": repr(sorted(connection.introspection.get_constraints(cursor, table.name).items())),
                "sequences": repr(connection.introspection.get_sequences(cursor, table.name)),
            }
    out = io.StringIO()
    call_command("inspectdb", "--include-views", "--include-partitions", stdout=out)
    found["inspectdb"] = out.getvalue()
    return found


def with_models() -> dict[str, Any]:
    call_command("migrate", verbosity=0)
    group = Group.objects.create(name="staff")
    User.objects.bulk_create([User(username=f"user{n}", email=f"U{n}@X.example") for n in range(300)])
    group.user_set.add(*User.objects.filter(username__in=["user1", "user2"]))
    refused = ""
    with transaction.atomic():
        User.objects.filter(username="user3").update(last_name="kept")
        try:
            with transaction.atomic():
                User.objects.create(username="user3")
        except IntegrityError as error:
            refused = str(error).splitlines()[0]
    named = User.objects.annotate(full=Concat(F("username"), Value("-"), Lower("email"), output_field=TextField())).order_by("id")
    return {
        "refused": refused,
        "kept": User.objects.get(username="user3").last_name,
        "counted": list(Group.objects.annotate(members=Count("user")).values_list("name", "members")),
        "searched": list(
            User.objects.filter(Q(email__icontains="u29") | Q(username="user0")).order_by("id").values_list("email", flat=True)
        ),
        "annotated": list(named.values_list("full", flat=True)[:3]),
        "iterated": sum(1 for _ in User.objects.iterator(chunk_size=50)),
        "locked": _locked(),
        "updated": _bulk_updated(),
        "deleted": User.objects.filter(username__startswith="user1").delete()[0],
        "left": User.objects.count(),
        "explained": "Seq Scan" in User.objects.filter(last_name="x").explain(),
    }


def _locked() -> str:
    with transaction.atomic():
        return User.objects.select_for_update(skip_locked=True).get(username="user5").username


def _bulk_updated() -> int:
    users = list(User.objects.filter(username__in=["user7", "user8"]))
    for user in users:
        user.first_name = "bulk"
    return User.objects.bulk_update(users, ["first_name"])


print(json.dumps({"inspected": inspected(), "models": with_models()}, indent=1, sort_keys=True))
