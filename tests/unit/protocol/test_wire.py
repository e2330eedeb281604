"""The wire format between Dagster and the worker: one line for each message."""

import json
from dataclasses import MISSING, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.builders import EVERYTHING, manifest, message_types, model
from unit.protocol.messages import D1, EVENTS, PROJECT, RECORDS, TABLES

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import WorkerError

REQUESTS: tuple[msg.Request, ...] = (
    msg.LoadRequest(PROJECT, select=("tag:finance",), exclude=(), include=("column_lineage", "sql", "links")),
    msg.EvaluationRequest(
        PROJECT,
        "prod",
        ('"db"."core"."orders"',),
        ("add_up",),
        {'"db"."core"."refunds"': (msg.AuditUse("not_null", "2f1c2d5e", 0, is_requested=True),)},
        execution_time=1_767_225_600_000,
        tables=TABLES,
        start="2026-01-01",
        end="1 day ago",
        ignore_cron=True,
        skip_janitor=False,
        job=msg.JobSettings("c0ffee", 2.5, 4, count_rows=True),
        environment_timeout=60,
        manifest_facts=msg.ManifestFacts(
            "local", None, frozenset({'"db"."core"."orders"'}), {"add_up": ('"db"."raw"."o"',)}
        ),
        restate=msg.Restatement("2026-01-01", "2026-01-02"),
    ),
)

OF_CAPABILITIES: tuple[Any, ...] = tuple(
    message
    for path in sorted(Path(__file__).parent.parent.glob("capabilities/*/messages.py"))
    for message in import_module(f"unit.capabilities.{path.parent.name}.messages").MESSAGES
)

MESSAGES: tuple[Any, ...] = (*REQUESTS, *EVENTS, RECORDS, TABLES, *OF_CAPABILITIES)
every_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)

SENTENCE = "This version of dg_sqlmesh_component cannot read a line between Dagster and SQLMesh's process: "
ADVICE = "Component and worker must come from one installation of the package."


def decoded(line: bytes, like: Any) -> Any:
    """Decode a line that should hold a request, an event or an answer, as this message is."""
    kinds: tuple[type[Any], ...] = (msg.Request, msg.Event, msg.Records, msg.AwaitedTables)
    return wire.decode(next(kind for kind in kinds if isinstance(like, kind)), line)


def changed(message: Any, /, **contents: Any) -> bytes:
    """The line of a message with other contents in some of its fields."""
    name, _, fields_as_json = wire.encode(message).partition(b" ")
    return name + b" " + json.dumps({**json.loads(fields_as_json), **contents}).encode()


def without(message: Any, removed: str) -> bytes:
    """The line of a message without one of its fields."""
    name, _, fields_as_json = wire.encode(message).partition(b" ")
    return name + b" " + json.dumps({k: v for k, v in json.loads(fields_as_json).items() if k != removed}).encode()


def defaults(message_type: Any) -> dict[str, Any]:
    """The fields of a message that have a default."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(message_type)
        if field.default is not MISSING or field.default_factory is not MISSING
    }


def refusal(line: bytes, like: Any = EVENTS[0]) -> str:
    """What the error says about a line that cannot be decoded, without the quoted line."""
    with pytest.raises(WorkerError) as refused:
        decoded(line, like)
    message = str(refused.value)
    assert message.startswith(SENTENCE)
    assert message.endswith(ADVICE)
    assert len(message) < 600, "a long line is quoted as a whole"
    return message.split("The line ")[0]


def test_examples_cover_every_request_and_event() -> None:
    of_both = {type(message) for message in MESSAGES if isinstance(message, msg.Request | msg.Event)}
    assert of_both == message_types(msg.Request) | message_types(msg.Event)


@every_message
def test_message_is_decoded_from_its_line(message: Any) -> None:
    line = wire.encode(message)
    assert (line[-1:], line.count(b"\n")) == (b"\n", 1)
    assert decoded(line, message) == decoded(line[:-1], message) == message
    for field in fields(message):
        assert type(getattr(decoded(line, message), field.name)) is type(getattr(message, field.name))


@every_message
def test_truncated_line_is_refused(message: Any) -> None:
    line = wire.encode(message)
    for length in range(len(line) - 1):
        refusal(line[:length], message)


@every_message
def test_wrong_or_missing_field_is_refused_by_name_unless_it_has_a_default(message: Any) -> None:
    default = defaults(type(message))
    for name in (field.name for field in fields(message)):
        assert f"(at {type(message).__name__}.{name}" in refusal(changed(message, **{name: [[]]}), message)
        if name in default:
            assert decoded(without(message, name), message) == replace(message, **{name: default[name]})
        else:
            assert f"(at {type(message).__name__}.{name})" in refusal(without(message, name), message)


def test_defaults_of_requests_and_errors() -> None:
    assert defaults(msg.LoadRequest).items() >= {"include": ()}.items()
    assert defaults(msg.LockRequest) == {"job": msg.JobSettings("of a test", 0.0, None)}
    assert defaults(msg.EvaluationRequest) == {
        "external_models": frozenset(),
        "start": None,
        "end": None,
        "ignore_cron": False,
        "skip_janitor": True,
        "job": msg.JobSettings(),
        "environment_timeout": 1,
        "manifest_facts": None,
        "restate": None,
        "sampling": None,
        "elsewhere": frozenset(),
        "deploy_jobs": None,
    }
    assert defaults(msg.NodeFailed) == defaults(msg.RequestFailed) == {"is_transient": False}


@given(st.text())
@example("a\nb\r\nc")
@example("\u2028\u2029\x85")
@example("\0")
@example('"\\')
@example("é 注文 \U0001f600")
def test_any_text_is_encoded_on_one_line(text: str) -> None:
    line = wire.encode(msg.LogLine("info", text, "output"))
    assert line.count(b"\n") == 1
    assert wire.decode(msg.Event, line) == msg.LogLine("info", text, "output")


def test_invalid_unicode_becomes_question_marks() -> None:
    not_unicode = b"caf\xe9".decode("utf-8", "surrogateescape")
    line = wire.encode(msg.AuditEvaluated("a", "é", 1, not_unicode, True, None, "b\n", D1))
    assert line.count(b"\n") == 1
    assert wire.decode(msg.Event, line) == msg.AuditEvaluated("a", "é", 1, "caf?", True, None, "b\n", D1)


@pytest.mark.parametrize(
    "lineage",
    [None, {}, {"id": ()}, {"é 注文": (('"db"."ra""w"."t"', "a b"), ("t", "*"))}],
    ids=["not requested", "untraced", "no upstream columns", "awkward names"],
)
def test_column_lineage_is_encoded_and_decoded(lineage: Any) -> None:
    loaded = msg.ProjectLoaded(manifest(replace(EVERYTHING, column_lineage=lineage)))
    assert wire.decode(msg.Event, wire.encode(loaded)) == loaded


LOADED = msg.ProjectLoaded(manifest(EVERYTHING))


def test_set_with_invalid_unicode_is_sent() -> None:
    request = msg.LoadRequest(PROJECT, files=frozenset({"models/caf\udce9.sql"}))
    assert wire.decode(msg.Request, wire.encode(request)) == replace(request, files=frozenset({"models/caf?.sql"}))


def with_model(**contents: Any) -> bytes:
    """The line of a loaded project with other contents in some fields of its model. None removes a field."""
    project = wire.MANIFEST.dump_python(LOADED.manifest, mode="json")
    fields_of_model = {**project["models"][0], **contents}
    project["models"] = [{name: content for name, content in fields_of_model.items() if content is not None}]
    return changed(LOADED, manifest=project)


@pytest.mark.parametrize("name", ["query", "column_lineage", "column_lineage_cut", "source_url"])
def test_optional_model_fields_have_defaults(name: str) -> None:
    with_default = replace(EVERYTHING, **{name: getattr(model(), name)})
    assert wire.decode(msg.Event, with_model(**{name: None})) == msg.ProjectLoaded(manifest(with_default))


BATCH = msg.BatchFinished("a", 0, D1, 5, None, None)
LINEAGE = "ProjectLoaded.manifest.models.0.column_lineage"


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (changed(BATCH, batch_index="first"), "BatchFinished.batch_index)"),
        (changed(BATCH, batch_index=None), "BatchFinished.batch_index)"),
        (changed(BATCH, batch_index=1.5), "BatchFinished.batch_index)"),
        (changed(BATCH, interval=[1, 2, 3]), "BatchFinished.interval"),
        (changed(BATCH, fqn=7), "BatchFinished.fqn)"),
        (changed(msg.LogLine("info", "", ""), level="splendid"), "LogLine.level)"),
        (changed(msg.EvaluationFinished("success"), status="splendid"), "EvaluationFinished.status)"),
        (changed(msg.RequestFailed("", ""), is_transient="maybe"), "RequestFailed.is_transient)"),
        (changed(msg.NodeFailed("", "", "", ()), is_transient=2), "NodeFailed.is_transient)"),
        (with_model(lookback="some"), "ProjectLoaded.manifest.models.0.lookback)"),
        (with_model(column_lineage={"id": ["raw"]}), LINEAGE),
        (with_model(column_lineage={"id": [["raw", "a", "b"]]}), LINEAGE),
    ],
)
def test_wrong_value_is_refused_with_its_path(line: bytes, where: str) -> None:
    assert where in refusal(line)


def test_unknown_include_is_refused() -> None:
    assert "(at LoadRequest.include.1)" in refusal(changed(REQUESTS[0], include=["sql", "splendid"]), REQUESTS[0])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"7",
        b'{"type": "BatchFinished"}',
        b"BatchFinished",
        b"BatchFinished {}",
        b"BatchFinished null",
        b"Interval [1, 2]",
        b"Traceback (most recent call last):",
        b"\xff\xfeStateLocked {}",
        b'LogLine {"level": "info", "text": "\xff", "source": "x"}',
        b'EvaluationFinished {"status": "success"} {}',
        b"x" * 100_000,
    ],
    ids=lambda line: ascii(line[:40]),
)
def test_malformed_line_is_refused(line: bytes) -> None:
    refusal(line)


@every_message
def test_name_of_a_line_is_the_class_of_its_message(message: Any) -> None:
    assert wire.name_of(wire.encode(message)) == type(message).__name__


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (wire.CUT_OFF, "cut off"),
        (b"hunter2 cancel\n", "unreadable"),
        (b"Manifest {}\n", "unreadable"),
        (b"OfAnotherVersion {}\n", "unreadable"),
        (b"\xff\n", "unreadable"),
        (b"\n", "unreadable"),
        (b"", "unreadable"),
    ],
)
def test_name_of_a_line_that_is_no_message_has_none_of_its_words(line: bytes, name: str) -> None:
    assert wire.name_of(line) == name


def test_unknown_event_and_messages_of_another_kind_are_refused() -> None:
    with pytest.raises(WorkerError, match=r"it is no Event\. The line begins with b'ModelSkipped {}'"):
        wire.decode(msg.Event, b"ModelSkipped {}")
    assert "it is no Request" in refusal(wire.encode(EVENTS[-1]), REQUESTS[0])
    assert "it is no Event" in refusal(wire.encode(REQUESTS[0]), EVENTS[0])


def test_line_with_secrets_is_not_quoted() -> None:
    with pytest.raises(WorkerError, match="The line contains secrets") as refused:
        wire.decode(msg.Event, b'SecretsKnown {"values": ["hunter2"')
    assert "hunter2" not in str(refused.value)
