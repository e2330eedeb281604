"""The wire format between Dagster and the worker: one JSON object a line."""

import json
from dataclasses import MISSING, fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.builders import EVERYTHING, days, manifest, model, standalone

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import WorkerError
from dg_sqlmesh_component.protocol.manifest import Limits

D1, D2 = days(1, 1), days(2, 2)
PROJECT = msg.OpenProject(paths=("/shop", "/core"), gateway="local", environment=None, config=None)
PROMOTED = msg.PromotedVersion(version="3117", data_hash="1001", metadata_hash="2001", table_name="db.core.orders")
ADD_UP = replace(PROMOTED, table_name=None)

RECORDS = msg.Records(
    {"a": msg.RecordedData("1", D1[1], "2", "3"), "b": None},
    (msg.UnfinishedRestatement("c0ffee", "a", "1", (D1, D2), D2[1]),),
)
REQUESTS: tuple[msg.LoadRequest, msg.EvaluationRequest, msg.PendingRequest, msg.ChangesRequest, msg.JanitorRequest] = (
    msg.LoadRequest(
        PROJECT, select=("tag:finance",), exclude=(), include=("column_lineage", "sql", "links"), limits=Limits(9, 8, 7)
    ),
    msg.EvaluationRequest(
        PROJECT,
        "prod",
        ('"db"."core"."orders"',),
        ("add_up",),
        {'"db"."core"."refunds"': (msg.AuditUse("not_null", {"columns": "(id)"}, 0, is_requested=True),)},
        execution_time=1_767_225_600_000,
        start="2026-01-01",
        end="1 day ago",
        ignore_cron=True,
        skip_janitor=False,
        concurrent_tasks=4,
        count_rows=True,
        holder="run c0ffee of job shop",
        overlap_timeout=2.5,
        environment_timeout=60,
        manifest_facts=msg.ManifestFacts(
            "local", None, frozenset({'"db"."core"."orders"'}), {"add_up": ('"db"."raw"."o"',)}
        ),
        restate=msg.Restatement("2026-01-01", "2026-01-02", 5, 60.0, {"a": (msg.RecordedCost(1_000, None, 3, None),)}),
    ),
    msg.PendingRequest(PROJECT, "prod", frozenset({"a", "b"}), now=D1[0]),
    msg.ChangesRequest(PROJECT, "prod", RECORDS, now=D2[1]),
    msg.JanitorRequest(PROJECT, "dev", concurrent_tasks=4, holder="janitor run c0ffee", overlap_timeout=2.5),
)
EVENTS: tuple[msg.Event, ...] = (
    msg.ProjectLoaded(
        manifest(EVERYTHING, model("staging.orders"), standalone_audits=[standalone("add_up", ["core.orders"])])
    ),
    msg.PendingFound(
        {"a": D1[0]}, next_due=(D2[0], "b"), waiting={"c": ("landed",), "d": ()}, signal_error="SignalEvalError: x"
    ),
    msg.ChangesFound(
        "c0ffee",
        is_finalized=True,
        promoted={"a": PROMOTED},
        compared=msg.DataComparedWithRecords(
            (
                msg.ComputedData("a", PROMOTED, ((D1, D2[1]),), msg.IntervalCoverage("a", D1)),
                msg.ComputedData("b", PROMOTED, ((D1, D2[1]),), None),
            )
        ),
    ),
    msg.StateLocked(),
    msg.DataComparedWithRecords((msg.ComputedData("a", PROMOTED, ((D1, D2[1]),)),), ("c0ffee",)),
    msg.RestatementPlanned({"a": (D1, 1)}, ("a",), {"dev": 2}, 1.5, None, 4, ("b",)),
    msg.EnvironmentOpened("prod", {"a": PROMOTED, "add_up": ADD_UP}, ("b",), "cd /shop && sqlmesh plan"),
    msg.EvaluationPlanned({"a": (D1, D2), "b": ()}, {"a": ("c", "d")}),
    msg.AuditEvaluated("a", "not_null", 1, {"columns": "(id)"}, True, None, None, D1),
    msg.BatchFinished("a", 0, D1, duration_ms=None, rows=10, bytes=None),
    msg.BatchesInFlight(("a", "b")),
    msg.BatchesRunning({"a": (3, 12, 61.5)}, finished=2, planned=5),
    msg.RowsCounted("a", 1_234),
    msg.NodeFailed("a", "NodeAuditsErrors", "Audit not_null failed", ("not_null",), is_transient=True),
    msg.NodesBlocked({"b": ("a",), "c": ()}),
    msg.NodeUpToDate("a", "its cron '@daily' is not due", next_due=D2[0], last_interval_end=None),
    msg.NodeWaiting("a", ("files_arrived",), ("b",), ("c",)),
    msg.IntervalCoverage("a", D1, (D1,), 21, 30, 5, (D2,)),
    msg.NodeAudited("a", (D1, D2), None),
    msg.ObjectDropped("db.core__dev"),
    msg.JanitorFinished(("dev",), before=msg.StateSize(9, 30), after=msg.StateSize(8, 10)),
    msg.SecretsKnown(("hunter2", "")),
    msg.LogLine("warning", "text", "sqlmesh"),
    msg.EvaluationFinished("nothing_to_do"),
    msg.RequestFailed("EvaluationError", "The connection was lost.", is_transient=True),
)
"""One example of each event. An optional field is None in one example and set in another."""

LINES = [
    *((wire.REQUEST, message) for message in REQUESTS),
    *((wire.EVENT, message) for message in EVENTS),
    (wire.RECORDS, RECORDS),
]
every_line = pytest.mark.parametrize(("adapter", "value"), LINES, ids=[type(value).__name__ for _, value in LINES])

SENTENCE = "This version of dg_sqlmesh_component cannot read a line between Dagster and SQLMesh's process: "
ADVICE = "Component and worker must come from one installation of the package."


def refusal(adapter: Any, line: bytes) -> str:
    """Return the error for a line that cannot be decoded."""
    with pytest.raises(WorkerError) as refused:
        wire.decode(adapter, line)
    message = str(refused.value)
    assert message.startswith(SENTENCE)
    assert message.endswith(ADVICE)
    return message


def test_examples_cover_every_request_and_event() -> None:
    assert {type(message) for message in REQUESTS} == {*get_args(msg.Request)}
    assert {type(message) for message in EVENTS} == {*get_args(msg.Event)}


def test_message_types_are_unique() -> None:
    for examples in (REQUESTS, EVENTS):
        assert len({message.type for message in examples}) == len(examples)


@every_line
def test_decoded_message_equals_the_encoded_one(adapter: Any, value: Any) -> None:
    assert wire.decode(adapter, wire.encode(adapter, value)) == value


@every_line
def test_decoded_fields_have_the_original_types(adapter: Any, value: Any) -> None:
    decoded = wire.decode(adapter, wire.encode(adapter, value))
    assert [type(getattr(decoded, field.name)) for field in fields(value)] == [
        type(getattr(value, field.name)) for field in fields(value)
    ]


@every_line
def test_message_is_one_line(adapter: Any, value: Any) -> None:
    line = wire.encode(adapter, value)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text())
def test_random_text_is_encoded_on_one_line(text: str) -> None:
    line = wire.encode(wire.EVENT, msg.LogLine("info", text, "output"))
    assert line.count(b"\n") == 1
    assert wire.decode(wire.EVENT, line) == msg.LogLine("info", text, "output")


@pytest.mark.parametrize("text", ["a\nb\r\nc", "\u2028\u2029\x85", "\0", '"\\', "é 注文 \U0001f600"], ids=ascii)
def test_awkward_text_is_encoded_on_one_line(text: str) -> None:
    line = wire.encode(wire.EVENT, msg.NodeFailed("a", "Error", text, ()))
    assert line.count(b"\n") == 1
    assert wire.decode(wire.EVENT, line) == msg.NodeFailed("a", "Error", text, ())


def test_invalid_unicode_becomes_question_marks() -> None:
    not_unicode = b"caf\xe9".decode("utf-8", "surrogateescape")
    line = wire.encode(wire.EVENT, msg.AuditEvaluated("a", "é", 1, {not_unicode: "b\n"}, True, None, not_unicode, D1))
    assert line.count(b"\n") == 1
    assert wire.decode(wire.EVENT, line) == msg.AuditEvaluated("a", "é", 1, {"caf?": "b\n"}, True, None, "caf?", D1)


@every_line
def test_truncated_line_is_refused(adapter: Any, value: Any) -> None:
    line = wire.encode(adapter, value)
    for length in range(len(line) - 1):
        refusal(adapter, line[:length])


@every_line
def test_line_without_line_break_is_accepted(adapter: Any, value: Any) -> None:
    assert wire.decode(adapter, wire.encode(adapter, value)[:-1]) == value


def line_without(adapter: Any, value: Any, *names: str) -> bytes:
    """Return the line of a message without some of its fields."""
    content_by_name = json.loads(wire.encode(adapter, value))
    return json.dumps({name: content for name, content in content_by_name.items() if name not in names}).encode()


def required_fields(value: Any) -> set[str]:
    """Return the fields that a line must have: those without a default, and `type`."""
    return {
        field.name
        for field in fields(value)
        if (field.default is MISSING and field.default_factory is MISSING) or field.name == "type"
    }


def line_with(adapter: Any, value: Any, name: str, content: Any) -> bytes:
    """Return the line of a message with one field replaced."""
    return json.dumps({**json.loads(wire.encode(adapter, value)), name: content}).encode()


@every_line
def test_field_of_a_wrong_type_is_refused_by_name(adapter: Any, value: Any) -> None:
    for field in fields(value):
        message = refusal(adapter, line_with(adapter, value, field.name, [[]]))
        assert field.name in message.split("The line begins with")[0]


@every_line
def test_missing_field_is_refused_by_name(adapter: Any, value: Any) -> None:
    for name in required_fields(value):
        where = refusal(adapter, line_without(adapter, value, name)).split("The line begins with")[0]
        assert name in where


@every_line
def test_field_with_a_default_may_be_missing(adapter: Any, value: Any) -> None:
    for field in fields(value):
        if field.name not in required_fields(value):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            assert wire.decode(adapter, line_without(adapter, value, field.name)) == replace(
                value, **{field.name: default}
            )


def test_defaults_of_optional_request_fields() -> None:
    load, evaluate, pending, _, clean_up = (
        wire.decode(
            wire.REQUEST,
            line_without(
                wire.REQUEST, request, *({field.name for field in fields(request)} - required_fields(request))
            ),
        )
        for request in REQUESTS
    )
    assert load == msg.LoadRequest(PROJECT, ("tag:finance",), (), include=())
    assert clean_up == msg.JanitorRequest(PROJECT, environment=None, concurrent_tasks=None, holder="somebody")
    assert evaluate == replace(
        REQUESTS[1],
        start=None,
        end=None,
        ignore_cron=False,
        skip_janitor=True,
        concurrent_tasks=None,
        count_rows=False,
        holder="somebody",
        overlap_timeout=0.0,
        environment_timeout=1,
        manifest_facts=None,
        restate=None,
    )
    assert pending == REQUESTS[2]


ERRORS = (msg.NodeFailed("a", "OperationalError", "lost", ()), msg.RequestFailed("EvaluationError", "lost"))
every_error = pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])


@every_error
def test_error_is_persistent_by_default(error: msg.NodeFailed | msg.RequestFailed) -> None:
    assert error.is_transient is False
    decoded = wire.decode(wire.EVENT, line_without(wire.EVENT, error, "is_transient"))
    assert isinstance(decoded, msg.NodeFailed | msg.RequestFailed)
    assert decoded.is_transient is False


@every_error
@pytest.mark.parametrize("is_transient", [True, False])
def test_is_transient_is_encoded_and_decoded(error: msg.NodeFailed | msg.RequestFailed, is_transient: bool) -> None:
    event = replace(error, is_transient=is_transient)
    assert json.loads(wire.encode(wire.EVENT, event))["is_transient"] is is_transient
    assert wire.decode(wire.EVENT, wire.encode(wire.EVENT, event)) == event


@every_error
@pytest.mark.parametrize("value", [None, "maybe", 2, []], ids=str)
def test_is_transient_must_be_a_boolean(error: msg.NodeFailed | msg.RequestFailed, value: Any) -> None:
    assert f"(at {error.type}.is_transient)" in refusal(wire.EVENT, line_with(wire.EVENT, error, "is_transient", value))


@pytest.mark.parametrize("name", ["query", "column_lineage", "column_lineage_cut", "source_url"])
def test_optional_model_fields_have_defaults(name: str) -> None:
    loaded = json.loads(wire.encode(wire.EVENT, msg.ProjectLoaded(manifest(EVERYTHING))))
    del loaded["manifest"]["models"][0][name]
    with_default = replace(EVERYTHING, **{name: getattr(model(), name)})
    assert wire.decode(wire.EVENT, json.dumps(loaded).encode()) == msg.ProjectLoaded(manifest(with_default))


@pytest.mark.parametrize(
    "lineage",
    [None, {}, {"id": ()}, {"é 注文": (('"db"."ra""w"."t"', "a b"), ("t", "*"))}],
    ids=["not requested", "untraced", "no upstream columns", "awkward names"],
)
def test_column_lineage_is_encoded_and_decoded(lineage: Any) -> None:
    loaded = msg.ProjectLoaded(manifest(replace(EVERYTHING, column_lineage=lineage)))
    assert wire.decode(wire.EVENT, wire.encode(wire.EVENT, loaded)) == loaded


@pytest.mark.parametrize("lineage", [[], {"id": ["raw"]}, {"id": [["raw", "a", "b"]]}, {"id": "raw"}], ids=str)
def test_malformed_column_lineage_is_refused_with_its_path(lineage: Any) -> None:
    loaded = json.loads(wire.encode(wire.EVENT, msg.ProjectLoaded(manifest(EVERYTHING))))
    loaded["manifest"]["models"][0]["column_lineage"] = lineage
    assert "models.0.column_lineage" in refusal(wire.EVENT, json.dumps(loaded).encode())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("batch_index", "first"),
        ("batch_index", None),
        ("batch_index", 1.5),
        ("interval", [1]),
        ("interval", [1, 2, 3]),
        ("interval", ["now", "then"]),
        ("duration_ms", {}),
        ("fqn", 7),
    ],
)
def test_value_of_a_wrong_type_is_refused_with_its_path(name: str, content: Any) -> None:
    finished = msg.BatchFinished("a", 0, D1, 5, None, None)
    assert f"(at batch_finished.{name}" in refusal(wire.EVENT, line_with(wire.EVENT, finished, name, content))


def test_unknown_include_is_refused() -> None:
    line = line_with(wire.REQUEST, REQUESTS[0], "include", ["sql", "splendid"])
    assert "(at load.include.1)" in refusal(wire.REQUEST, line)


@pytest.mark.parametrize(
    ("event", "name"),
    [(msg.LogLine("info", "", ""), "level"), (msg.EvaluationFinished("success"), "status")],
    ids=["level", "status"],
)
def test_unknown_literal_is_refused(event: msg.Event, name: str) -> None:
    assert f"(at {event.type}.{name})" in refusal(wire.EVENT, line_with(wire.EVENT, event, name, "splendid"))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"7",
        b'"batch_finished"',
        b"{}",
        b'{"type": null}',
        b'{"type": "model_skipped", "fqn": "a"}',
        b'{"type": "batch_finished"}',
        b"Traceback (most recent call last):",
        b'\xff\xfe{"type": "log_line"}',
        b'{"type": "log_line", "level": "info", "text": "\xff", "source": "x"}',
        b'{"type": "evaluation_finished", "status": "success"} {}',
    ],
    ids=ascii,
)
def test_malformed_line_is_refused(line: bytes) -> None:
    refusal(wire.EVENT, line)


def test_unknown_event_is_named_in_the_error() -> None:
    assert "'model_skipped'" in refusal(wire.EVENT, b'{"type": "model_skipped"}')


def test_event_is_no_request_and_request_is_no_event() -> None:
    refusal(wire.REQUEST, wire.encode(wire.EVENT, EVENTS[-1]))
    refusal(wire.EVENT, wire.encode(wire.REQUEST, REQUESTS[0]))


def test_error_quotes_only_the_start_of_a_long_line() -> None:
    assert len(refusal(wire.EVENT, b"x" * 100_000)) < 600


def test_malformed_manifest_is_refused_with_its_path() -> None:
    loaded = msg.ProjectLoaded(manifest(model()))
    line = wire.encode(wire.EVENT, loaded).replace(b'"lookback":0', b'"lookback":"some"')
    assert "(at project_loaded.manifest.models.0.lookback)" in refusal(wire.EVENT, line)


def test_manifest_of_a_large_project_is_one_line() -> None:
    models = [replace(EVERYTHING, fqn=f'"db"."core"."m{n}"') for n in range(200)]
    loaded = msg.ProjectLoaded(manifest(*models))
    assert wire.decode(wire.EVENT, wire.encode(wire.EVENT, loaded)) == loaded
