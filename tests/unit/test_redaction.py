"""What nobody may read stays out of every text; what is no secret stays as it is."""

import pytest

from dg_sqlmesh_component import events as e
from dg_sqlmesh_component.redaction import Redactor


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
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert Redactor({}).text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://sqlmesh.readthedocs.io/en/stable/reference/configuration/#run",
        'Binder Error: column "password" not found',
        "t.tokens was executed for [2026-01-01, 2026-01-02).",
        "12:30:45 ada@example.com",
        "SELECT secret FROM vault",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor({}).text(text) == text


def test_values_of_variables_with_a_telling_name_are_hidden_wherever_they_stand() -> None:
    redactor = Redactor({"WAREHOUSE_PASSWORD": "hunter2!", "HOME": "/home/ada", "SHOP_TOKEN": "abc", "API_KEY": ""})
    assert redactor.text("got hunter2! in /home/ada, abc") == "got *** in /home/ada, abc"  # abc is too short


def test_a_secret_that_contains_another_is_hidden_as_a_whole() -> None:
    redactor = Redactor({})
    redactor.add(["horse", "correct-horse"])
    assert redactor.text("correct-horse horse") == "*** ***"


@pytest.mark.parametrize(
    "event",
    [
        e.LogLine("info", "it is hunter2!", "output"),
        e.RequestFailed("EvaluationError", "it is hunter2!"),
        e.NodeFailed('"t"."x"', "OperationalError", "it is hunter2!", ()),
        e.NodeAudited('"t"."x"', (), "it is hunter2!"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_every_event_that_carries_words_is_cleaned(event: e.Event) -> None:
    redactor = Redactor({})
    redactor.add(["hunter2!"])
    assert "it is ***" in repr(redactor.event(event))
    assert "hunter2" not in repr(redactor.event(event))


def test_the_values_themselves_are_not_in_the_events_own_words() -> None:
    assert "hunter2" not in repr(e.SecretsKnown(("hunter2!",)))
