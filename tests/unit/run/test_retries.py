"""Retries inside the step: which errors are transient, the delays, and what is retried."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from dagster.components.resolved.errors import ResolutionException
from pydantic import ValidationError
from unit.builders import fqn, manifest, model, project_assets, retries
from unit.outcome_table import AUDITS, DIVISION, LOST, OUTCOME_TABLE

from dg_sqlmesh_component.config.attribute_types import Execution
from dg_sqlmesh_component.config.retries import Retries
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ERRORS_BY_NAME, ConfigurationError, SQLMeshComponentError
from dg_sqlmesh_component.run.ledger import Ledger
from dg_sqlmesh_component.run.retry_decision import next_attempt

# -- transient and persistent errors --------------------------------------------------------------

ERROR_TEXT = "OperationalError: the warehouse was suspended"


@pytest.mark.attribute("execution.retries.transient_errors", "execution.retries.persistent_errors")
@pytest.mark.parametrize(
    ("attributes", "is_known_transient", "expected"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"transient_errors": ["suspended"]}, False, True),
        ({"transient_errors": ["suspended"]}, True, True),
        ({"transient_errors": ["other"]}, False, False),
        ({"transient_errors": ["other"]}, True, True),
        ({"transient_errors": ["other", "suspended"]}, False, True),
        ({"persistent_errors": ["suspended"]}, True, False),
        ({"persistent_errors": ["suspended"]}, False, False),
        ({"persistent_errors": ["other"]}, True, True),
        ({"persistent_errors": ["other", "suspended"]}, True, False),
        ({"transient_errors": ["suspended"], "persistent_errors": ["suspended"]}, False, False),
        ({"transient_errors": ["suspended"], "persistent_errors": ["warehouse"]}, True, False),
        ({"transient_errors": ["suspended"], "persistent_errors": ["other"]}, False, True),
    ],
)
def test_persistent_errors_win_over_transient_errors_and_both_over_the_default(
    attributes: dict[str, list[str]], is_known_transient: bool, expected: bool
) -> None:
    assert retries(**attributes).is_transient(ERROR_TEXT, is_known_transient) is expected


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [
        ("OperationalError", True),
        ("^OperationalError: the", True),
        ("suspended$", True),
        ("ware.*suspended", True),
        ("Error: the warehouse", True),
        ("^the warehouse", False),
        ("Suspended", False),
        ("(?i)SUSPENDED", True),
        ("", True),
    ],
)
def test_pattern_is_searched_in_error_class_and_message(pattern: str, is_match: bool) -> None:
    failed = msg.NodeFailed("a", "OperationalError", "the warehouse was suspended", ())
    refused = msg.RequestFailed("OperationalError", "the warehouse was suspended")
    for event in (failed, refused):
        assert retries(transient_errors=[pattern]).classify(event) == replace(event, is_transient=is_match)
        known = replace(event, is_transient=True)
        assert retries(persistent_errors=[pattern]).classify(known) == replace(event, is_transient=not is_match)


@pytest.mark.parametrize(
    ("event", "pattern"),
    [
        (msg.NodeFailed("a", "OperationalError", ERROR_TEXT, ()), "^OperationalError: the"),
        (msg.RequestFailed("WorkerError", "SQLMesh's process ended.\nIts last lines:\nsuspended"), "suspended"),
    ],
    ids=["the message begins with the class", "another line"],
)
def test_pattern_is_searched_in_every_line_with_the_class_once(
    event: msg.NodeFailed | msg.RequestFailed, pattern: str
) -> None:
    assert retries(transient_errors=[pattern]).classify(event) == replace(event, is_transient=True)


@pytest.mark.parametrize("name", ["transient_errors", "persistent_errors"])
def test_pattern_without_a_list_is_refused(name: str) -> None:
    patterns: dict[str, Any] = {name: "suspended"}
    with pytest.raises(ConfigurationError) as refusal:
        Retries(max_retries=1, **patterns)
    assert str(refusal.value) == (
        f"`execution.retries.{name}` in defs.yaml is 'suspended'. Input should be a valid list."
    )


@pytest.mark.parametrize(
    "event", [LOST, DIVISION, msg.RequestFailed("WorkerError", "killed", is_transient=True)], ids=str
)
def test_classification_is_unchanged_without_patterns(event: msg.NodeFailed | msg.RequestFailed) -> None:
    assert retries().classify(event) == event


EVENTS = [event for row in OUTCOME_TABLE for event in row.events]
UNCHANGED = {
    "failed audit": AUDITS,
    "failed audit, known as transient": replace(AUDITS, is_transient=True),
    **{type(event).__name__: event for event in EVENTS if not isinstance(event, msg.NodeFailed | msg.RequestFailed)},
}


@pytest.mark.parametrize("event", UNCHANGED.values(), ids=UNCHANGED)
def test_failed_audits_and_events_that_are_no_errors_are_unchanged(event: msg.Event) -> None:
    assert retries(transient_errors=[""]).classify(event) is event
    assert retries(persistent_errors=[""]).classify(event) is event


@pytest.mark.parametrize("error", ERRORS_BY_NAME.values(), ids=ERRORS_BY_NAME)
def test_errors_of_this_package_are_persistent_by_default(error: type[SQLMeshComponentError]) -> None:
    assert (str(error("boom")), error("boom").is_transient) == ("boom", False)
    assert (str(error("boom", is_transient=True)), error("boom", is_transient=True).is_transient) == ("boom", True)


# -- delays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [10, 2.5, 0])
def test_delay_doubles_up_to_sixteen_times_the_first(delay: float) -> None:
    delays = [retries(max_retries=9, delay=delay).delay_before(attempt) for attempt in (2, 3, 4, 5, 6, 7, 5_000)]
    assert delays == [delay * times for times in (1, 2, 4, 8, 16, 16, 16)]


# -- the attributes in defs.yaml ------------------------------------------------------------------


def retries_from(value: Any) -> Retries | None:
    """Resolve `execution: {retries: ...}` in defs.yaml."""
    attributes = Execution.model().model_validate({"retries": value})
    resolved: Execution = Execution.resolve_from_model(dg.ResolutionContext.default(), attributes)
    return resolved.retries


@pytest.mark.attribute("execution.retries.max_retries")
@pytest.mark.parametrize("value", [3, "3", "{{ 1 + 2 }}", "{{ env.RETRIES }}", {"max_retries": 3}], ids=str)
def test_number_is_short_for_max_retries(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIES", "3")
    assert retries_from(value) == Retries(max_retries=3)


@pytest.mark.parametrize("value", [None, "{{ none }}"], ids=str)
def test_retries_may_be_none(value: Any) -> None:
    assert retries_from(value) is None


@pytest.mark.parametrize("value", [True, 1.5, [3], "many", "{{ true }}", "{{ [3] }}"], ids=str)
def test_retries_refuse_other_types_than_number_and_mapping(value: Any) -> None:
    with pytest.raises((ResolutionException, ConfigurationError, ValidationError), match="retries"):
        retries_from(value)


def test_only_max_retries_is_required() -> None:
    assert retries(max_retries=2) == Retries(max_retries=2, delay=10.0, transient_errors=[])


@pytest.mark.parametrize(
    "attributes",
    [
        {"max_retries": 1.5},
        {"max_retries": None},
        {"delay": None},
        {"transient_errors": {}},
        {"transient_errors": [7]},
        {"persistent_errors": [7]},
        {"max_attempts": 2},
    ],
    ids=str,
)
def test_wrong_retry_attribute_is_refused_by_name(attributes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(attributes))):
        retries(**attributes)


@pytest.mark.parametrize("attribute", ["transient_errors", "persistent_errors"])
@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("(suspended", "missing ), unterminated subpattern at position 0"),
        ("[a-", "unterminated character set at position 0"),
        ("*suspended", "nothing to repeat at position 0"),
    ],
)
def test_invalid_regular_expression_is_refused_with_its_attribute(attribute: str, pattern: str, rule: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        retries(**{attribute: ["suspended", pattern]})
    assert str(refusal.value) == (
        f"`execution.retries.{attribute}` in defs.yaml has {pattern!r}, which is not a regular expression: {rule}."
    )


# -- the next attempt of a step -------------------------------------------------------------------

DOWNSTREAM, AUDITED = "marts.revenue", "core.orders"


def next_request(
    *events: msg.Event, end: msg.EvaluationFinished | msg.RequestFailed, restate: msg.Restatement | None = None
) -> msg.EvaluationRequest | None:
    """Return the request of the next attempt in a project in which `marts.revenue` reads `staging.orders`."""
    project = manifest(model("staging.orders"), model(DOWNSTREAM, reads=["staging.orders"]), model(AUDITED))
    nodes = (fqn("staging.orders"), fqn(DOWNSTREAM))
    opened = msg.OpenProject(("/shop",), None, None, None)
    request = msg.EvaluationRequest(opened, "prod", nodes, (), {AUDITED: ()}, 0, msg.AwaitedTables(), restate=restate)
    ledger = Ledger(nodes, [AUDITED])
    for event in events:
        ledger.feed(event)
    return next_attempt(request, ledger, end, retries().is_transient, project_assets(project).downstream_of)


def test_refused_request_is_not_retried() -> None:
    assert next_request(end=msg.EvaluationFinished("not_run")) is None


def test_downstream_model_of_a_persistent_failure_is_not_retried_and_audits_alone_restate_nothing() -> None:
    worker_death = msg.RequestFailed("WorkerError", "killed", is_transient=True)
    failed = msg.NodeFailed(fqn("staging.orders"), "BinderException", "no such column", ())
    restate = msg.Restatement("2026-01-01", "2026-01-02")
    after_death, after_failure = (next_request(*of, end=worker_death, restate=restate) for of in ((), (failed,)))
    assert after_death is not None
    assert (after_death.models, after_death.restate) == ((fqn("staging.orders"), fqn(DOWNSTREAM)), restate)
    assert after_failure is not None
    assert (after_failure.models, after_failure.audit_only, after_failure.restate) == ((), {AUDITED: ()}, None)
