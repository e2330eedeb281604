"""Secrets are redacted in all text, and other text is unchanged."""

import json
import re
from dataclasses import is_dataclass, replace
from typing import TypeVar, get_type_hints

import pytest
from unit.builders import audit, manifest, message_modules, message_types, model

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.manifest import Audit, Column, DbtNode, Model, StandaloneAudit
from dg_sqlmesh_component.protocol.redaction import Redactor

E = TypeVar("E", bound=msg.Event)


def received(event: E, redactor: Redactor) -> E:
    """Return the event as Dagster's process decodes it."""
    return wire.decode(type(event), wire.encode(event), redactor)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:hunter2@db:5432/shop refused", "postgresql://ada:***@db:5432/shop refused"),
        ("mysql://:hunter2@db/shop", "mysql://:***@db/shop"),
        ("host=db password=hunter2 dbname=shop", "host=db password=*** dbname=shop"),
        ("{'user': 'ada', 'password': 'hunter 2'}", "{'user': 'ada', 'password': ***}"),
        ('{"api_key": "abc", "x": 1}', '{"api_key": ***, "x": 1}'),
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
        ("motherduck_token=abc&x=1", "motherduck_token=***&x=1"),
        ("secret: s3cr3t, next", "secret: ***, next"),
        ("DB_PASS=hunter2 psql", "DB_PASS=*** psql"),
        ("AccountName=shop;AccountKey=abc==;x", "AccountName=shop;AccountKey=***;x"),
        ("postgres://ada:pa@ss1word@db/shop", "postgres://ada:***@db/shop"),
        ("  password: hunter2: se: cret9\n            ^ (line: 3)", "  password: ***\n            ^ (line: 3)"),
    ],
)  # fmt: skip
def test_text_that_looks_like_a_secret_is_redacted(text: str, shown: str) -> None:
    assert Redactor({}).text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://sqlmesh.readthedocs.io/en/stable/reference/configuration/#run",
        'Binder Error: column "password" not found',
        "t.tokens was executed for 2026-01-01.",
        "12:30:45 ada@example.com",
        "SELECT secret FROM vault",
        "Invalid field 'password':\n  Input should be a valid string",
        "https://example.com/a:b and <ada@example.com>",
        "audits pass: 3, bypass=yes, compass: north",
        "the primary key=id and the partition_key=day",
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert Redactor({}).text(text) == text


def test_values_of_secret_variables_are_redacted_anywhere() -> None:
    redactor = Redactor({"WAREHOUSE_PASSWORD": "hunter2!", "HOME": "/home/ada", "SHOP_TOKEN": "abc", "API_KEY": ""})
    assert redactor.text("got hunter2! in /home/ada, abc") == "got *** in /home/ada, abc"  # abc is too short


SECRET_NAMES = (
    "DB_PASS pass AZURE_ACCOUNT_KEY AZURE_STORAGE_KEY STORAGE_SAS PG_DSN AZ_CONNECTION_STRING MYSQL_PWD MYSQL_PW "
    "SNOWFLAKE_PAT SALT"
)
ORDINARY_NAMES = "BYPASS COMPASS_URL PRIMARY_KEY NASA_HOST PARTITION_KEY PWD OLDPWD"


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_variable_with_a_secret_name_is_redacted(name: str) -> None:
    assert Redactor({name: "hunter2!"}).text("it is hunter2!") == "it is ***"


@pytest.mark.parametrize("name", ORDINARY_NAMES.split())
def test_variable_with_an_ordinary_name_is_unchanged(name: str) -> None:
    assert Redactor({name: "hunter2!"}).text("it is hunter2!") == "it is hunter2!"


@pytest.mark.parametrize("position", [0, 4_990, 6_000, 19_990, 24_988])
def test_long_error_is_cut_in_the_middle_and_shows_no_part_of_a_secret(position: int) -> None:
    text = "x" * position + "hunter2-horse" + "x" * (25_001 - position)
    shown = Redactor({"DB_PASS": "hunter2-horse"}).error(text)
    start, note, end = shown.splitlines()
    assert note == "[15014 characters left out]"
    assert set(start + end) <= {"x", "*"}
    assert max(len(start), len(end)) <= 5_000


AWKWARD = 'a\\b"c ü@/d'


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        (AWKWARD, f"{AWKWARD} {AWKWARD!r} {json.dumps(AWKWARD)}", "*** '***' \"***\""),
        (AWKWARD, "a%5Cb%22c%20%C3%BC%40%2Fd", "***"),
        ("hunter2!\n", "401 for hunter2!.", "401 for ***."),
        ("-----BEGIN KEY-----\nMIIE\n  QhJ7a8\n-----END KEY-----\n", "QhJ7a8 -----END KEY-", "*** -----END KEY-"),
        ("p\udce4ss99", "it is p\ufffdss99, p?ss99 or p\udce4ss99", "it is ***, *** or ***"),
    ],
    ids=["quoted", "in a URL", "trailing line break", "key of several lines", "invalid Unicode"],
)
def test_quoted_stripped_partial_and_decoded_forms_of_a_secret_are_redacted(secret: str, text: str, shown: str) -> None:
    assert Redactor({"DB_PASS": secret}).text(text) == shown


def test_secret_that_contains_another_is_redacted_as_a_whole() -> None:
    redactor = Redactor({})
    redactor.add(["horse", "correct-horse"])
    assert redactor.text("correct-horse horse") == "*** ***"


SAMPLE = msg.Sample(("id", "note"), (("1", "it is hunter2!"),))


@pytest.mark.parametrize(
    "event",
    [
        msg.RequestFailed("EvaluationError", "it is hunter2!"),
        msg.NodeFailed('"t"."x"', "OperationalError", "it is hunter2!", ()),
        msg.NodeAudited('"t"."x"', (), "it is hunter2!"),
        msg.AuditEvaluated('"t"."x"', "a", 0, "", True, None, None, (0, 1), error="it is hunter2!"),
        msg.AuditEvaluated('"t"."x"', "a", 0, "", True, 1, None, (0, 1), sample=SAMPLE),
    ],
    ids=lambda event: type(event).__name__,
)
def test_events_with_free_text_are_redacted(event: msg.Event) -> None:
    redactor = Redactor({})
    redactor.add(["hunter2!"])
    assert "it is ***" in repr(received(event, redactor))
    assert "hunter2" not in repr(received(event, redactor))


@pytest.mark.parametrize("quoted", ["'pa''ss-word'", r"'pa\'ss-word'"])
def test_secret_in_an_sql_string_is_redacted(quoted: str) -> None:
    redactor = Redactor({"DB_PASS": "pa'ss-word"})
    assert redactor.sql(f"SELECT {quoted}") == "SELECT '***'"


@pytest.mark.parametrize("characters", range(60, 70))
def test_queries_are_redacted_before_they_are_cut(characters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dg_sqlmesh_component.protocol.redaction.LONGEST_QUERY", characters)
    redactor = Redactor({"DB_PASS": "hunter2-correct-horse"})
    query = f"SELECT '{'x' * 8}hunter2-correct-horse' AS {'y' * 100}"
    evaluated = msg.AuditEvaluated('"t"."x"', "a", 0, "", True, 1, query, (0, 1))
    loaded = msg.ProjectLoaded(manifest(model("t.x", query=query, audits=(audit(query=query),))))
    [redacted_model] = received(loaded, redactor).manifest.models
    for shown in (received(evaluated, redactor).query, redacted_model.query, redacted_model.audits[0].query):
        assert shown is not None
        assert len(shown) == characters
        assert shown.startswith(f"SELECT '{'x' * 8}***' AS ")
        assert shown.endswith("-- cut here: 124 characters in all")


def test_password_in_a_url_in_sql_is_redacted() -> None:
    assert Redactor({}).sql("SELECT 'https://ada:hunter2@db/x'") == "SELECT 'https://ada:***@db/x'"


def test_query_is_redacted_only_for_known_secrets() -> None:
    redactor = Redactor({"MODE_TOKEN": "user"})
    redactor.add(["hunter2!"])
    assert redactor.sql("SELECT user FROM t WHERE key = 'hunter2!'") == "SELECT user FROM t WHERE key = '***'"


def test_manifest_is_redacted_except_names_used_for_keys_and_groups() -> None:
    """A variable may be part of a model's properties, and the manifest is stored and shown."""
    secret_text = "of hunter2!, by Ada"
    args = {"is_in": f"('{secret_text}')"}
    check = audit("known", args=args, args_hash="2f1c2d5e", query=secret_text, description=secret_text)
    dbt = DbtNode("model.shop.x", None, meta=secret_text, severity=None, tests=None)
    model_with_secrets = model(
        "t.x",
        description=secret_text,
        owner="hunter2!",
        tags=("dagster:key_prefix:hunter2!",),
        columns=(Column("id", "INT", secret_text), Column("n", "INT", None)),
        audits=(check,),
        dbt=dbt,
    )
    standalone_audit = StandaloneAudit(check, (), "@daily", None, dbt)
    redactor = Redactor({})
    redactor.add(["hunter2!"])
    redacted = received(msg.ProjectLoaded(manifest(model_with_secrets, standalone_audits=[standalone_audit])), redactor)
    [redacted_model] = redacted.manifest.models
    assert redacted_model.columns[1] == Column("n", "INT", None)
    assert (redacted_model.owner, redacted_model.tags) == (model_with_secrets.owner, model_with_secrets.tags), (
        "of names keys and groups are made"
    )
    assert "hunter2" not in repr(replace(redacted.manifest, models=(replace(redacted_model, owner=None, tags=()),)))


def test_secrets_event_does_not_show_its_values_in_repr() -> None:
    assert "hunter2" not in repr(msg.SecretsKnown(("hunter2!",)))


FREE_TEXT = re.compile("text|message|error|query|diff|statements|description|meta$")
NO_FREE_TEXT = {
    "error_type",  # the name of a class
    "metadata_hash",
}


def test_each_field_with_a_name_of_free_text_is_marked() -> None:
    classes = {cls for module in message_modules() for cls in vars(module).values() if isinstance(cls, type)}
    parts = {cls for cls in classes if is_dataclass(cls)}
    types = {*parts, Model, Column, Audit, DbtNode} - message_types(msg.Request) - message_types(msg.Answer)
    unmarked = {
        f"{type_.__name__}.{name}"
        for type_ in types
        for name, hint in get_type_hints(type_, include_extras=True).items()
        if FREE_TEXT.search(name) and name not in NO_FREE_TEXT and "Mark." not in str(hint)
    }
    of_classes = {"RequestFailed.error", "ModelCompared.error", "ComparedAudit.error"}  # the names of classes
    assert unmarked - of_classes == {"LogLine.text"}  # `Worker` hides secrets in lines, also in those that are printed
