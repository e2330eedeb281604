"""Which errors are worth another attempt, and when it is made."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from dagster.components.resolved.errors import ResolutionException
from pydantic import ValidationError
from unit.builders import fqn, manifest, model, project_assets, retries
from unit.outcome_table import AUDITS, DIVISION, LOST, OUTCOME_TABLE

from dg_sqlmesh_component.config.attributes import Execution
from dg_sqlmesh_component.config.retries import Retries
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ERRORS_BY_NAME, DeclarationError, SQLMeshComponentError
from dg_sqlmesh_component.run.outcomes import Ledger
from dg_sqlmesh_component.run.retry_decision import next_attempt

# -- which ----------------------------------------------------------------------------------------

SAID = "OperationalError: the warehouse was suspended"


@pytest.mark.parametrize(
    ("declared", "known", "expected"),
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
    declared: dict[str, list[str]], known: bool, expected: bool
) -> None:
    assert retries(**declared).is_transient(SAID, known) is expected


@pytest.mark.parametrize(
    ("pattern", "found"),
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
def test_pattern_is_searched_in_error_class_and_message(pattern: str, found: bool) -> None:
    failed = msg.NodeFailed("a", "OperationalError", "the warehouse was suspended", ())
    refused = msg.RequestFailed("OperationalError", "the warehouse was suspended")
    for event in (failed, refused):
        assert retries(transient_errors=[pattern]).classify(event) == replace(event, is_transient=found)
        known = replace(event, is_transient=True)
        assert retries(persistent_errors=[pattern]).classify(known) == replace(event, is_transient=not found)


def test_error_class_is_not_prepended_twice() -> None:
    event = msg.NodeFailed("a", "OperationalError", "OperationalError: the warehouse was suspended", ())
    assert retries(transient_errors=["^OperationalError: the"]).classify(event) == replace(event, is_transient=True)


@pytest.mark.parametrize("name", ["transient_errors", "persistent_errors"])
def test_pattern_without_a_list_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        Retries(max_retries=1, **{name: "suspended"})  # type: ignore[arg-type]
    assert (
        str(refusal.value) == f"`execution.retries.{name}` in defs.yaml is 'suspended'. Input should be a valid list."
    )


def test_pattern_is_searched_in_every_line() -> None:
    event = msg.RequestFailed("WorkerError", "SQLMesh's process ended.\nIts last lines:\nwarehouse suspended")
    classified = retries(transient_errors=["warehouse suspended"]).classify(event)
    assert classified == replace(event, is_transient=True)


@pytest.mark.parametrize(
    "event", [LOST, DIVISION, msg.RequestFailed("WorkerError", "killed", is_transient=True)], ids=str
)
def test_classification_is_unchanged_without_patterns(event: msg.NodeFailed | msg.RequestFailed) -> None:
    assert retries().classify(event) == event


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("declared", ["transient_errors", "persistent_errors"])
def test_patterns_never_apply_to_failed_audits(declared: str, known: bool) -> None:
    event = replace(AUDITS, is_transient=known)
    assert retries(**{declared: [""]}).classify(event) is event


NO_ERRORS = {
    event.type: event
    for row in OUTCOME_TABLE
    for event in row.events
    if not isinstance(event, msg.NodeFailed | msg.RequestFailed)
}


@pytest.mark.parametrize("event", NO_ERRORS.values(), ids=NO_ERRORS)
def test_events_that_are_no_errors_are_unchanged(event: msg.Event) -> None:
    assert retries(transient_errors=[""]).classify(event) is event


@pytest.mark.parametrize("error", ERRORS_BY_NAME.values(), ids=ERRORS_BY_NAME)
def test_errors_of_this_package_are_persistent_by_default(error: type[SQLMeshComponentError]) -> None:
    assert (str(error("boom")), error("boom").is_transient) == ("boom", False)
    assert (str(error("boom", is_transient=True)), error("boom", is_transient=True).is_transient) == ("boom", True)


# -- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "delays"),
    [
        ({}, [10, 10, 10, 10]),
        ({"delay": 2.5}, [2.5, 2.5, 2.5, 2.5]),
        ({"delay": 0}, [0, 0, 0, 0]),
        ({"delay": 2.5, "backoff": "linear"}, [2.5, 5, 7.5, 10]),
        ({"delay": 2.5, "backoff": "exponential"}, [2.5, 7.5, 17.5, 37.5]),
        ({"backoff": "exponential"}, [10, 30, 70, 150]),
        ({"delay": 0, "backoff": "exponential", "jitter": "full"}, [0, 0, 0, 0]),
    ],
    ids=lambda one: " ".join(map(str, one.values())) or "nothing said" if isinstance(one, dict) else "",
)
def test_delay_grows_by_the_configured_backoff(declared: dict[str, Any], delays: list[float]) -> None:
    assert [retries(**declared).delay_before(attempt) for attempt in (2, 3, 4, 5)] == delays


@pytest.mark.parametrize(
    ("declared", "attempt", "shortest", "longest"),
    [
        ({"jitter": "full"}, 2, 0, 8),
        ({"jitter": "full"}, 5, 0, 8),
        ({"jitter": "full", "backoff": "linear"}, 4, 0, 24),
        ({"jitter": "full", "backoff": "exponential"}, 4, 0, 56),
        ({"jitter": "plus_minus"}, 2, 0, 16),
        ({"jitter": "plus_minus", "backoff": "linear"}, 4, 16, 32),
        ({"jitter": "plus_minus", "backoff": "exponential"}, 4, 48, 64),
    ],
    ids=lambda one: " ".join(one.values()) if isinstance(one, dict) else str(one),
)
def test_jitter_varies_the_delay_within_bounds(
    declared: dict[str, Any], attempt: int, shortest: float, longest: float
) -> None:
    declaration = retries(delay=8, **declared)
    delays = [declaration.delay_before(attempt) for _ in range(500)]
    assert all(shortest <= delay <= longest for delay in delays)
    middle, margin = (shortest + longest) / 2, (longest - shortest) / 4
    assert min(delays) < middle - margin < middle + margin < max(delays)


@pytest.mark.parametrize("max_retries", [0, 1, 100])
def test_delay_does_not_depend_on_max_retries(max_retries: int) -> None:
    assert retries(max_retries=max_retries, delay=1, backoff="linear").delay_before(8) == 7


# -- the declaration ------------------------------------------------------------------------------


def declared(said: Any) -> Retries | None:
    """What `execution: {retries: ...}` in defs.yaml gives."""
    attributes = Execution.model().model_validate({"retries": said})
    return Execution.resolve_from_model(dg.ResolutionContext.default(), attributes).retries


@pytest.mark.attribute("execution.retries.max_retries")
@pytest.mark.parametrize("said", [3, "3", "{{ 1 + 2 }}", "{{ env.RETRIES }}", {"max_retries": 3}], ids=str)
def test_number_is_short_for_max_retries(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIES", "3")
    assert declared(said) == Retries(max_retries=3)


@pytest.mark.parametrize("said", [None, "{{ none }}"], ids=str)
def test_retries_may_be_none(said: Any) -> None:
    assert declared(said) is None


@pytest.mark.parametrize("said", [True, 1.5, [3], "many", "{{ true }}", "{{ [3] }}"], ids=str)
def test_retries_refuse_other_types_than_number_and_mapping(said: Any) -> None:
    with pytest.raises((ResolutionException, DeclarationError, ValidationError), match="retries"):
        declared(said)


def test_only_max_retries_is_required() -> None:
    assert retries(max_retries=2) == Retries(
        max_retries=2, delay=10.0, backoff=None, jitter=None, transient_errors=[], persistent_errors=[]
    )


@pytest.mark.parametrize(
    "said",
    [
        {"max_retries": 1.5},
        {"max_retries": None},
        {"delay": None},
        {"backoff": 2},
        {"jitter": True},
        {"transient_errors": {}},
        {"persistent_errors": [7]},
        {"max_attempts": 2},
    ],
    ids=str,
)
def test_wrong_retry_attribute_is_refused_by_name(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(said))):
        retries(**said)


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
    with pytest.raises(DeclarationError) as refusal:
        retries(**{attribute: ["suspended", pattern]})
    assert str(refusal.value) == (
        f"`execution.retries.{attribute}` in defs.yaml has {pattern!r}, which is no regular expression: {rule}."
    )


@pytest.mark.parametrize(
    "said", [{"max_retries": -1}, {"max_retries": 1, "delay": -1}, {"max_retries": 1, "backoff": "quadratic"}]
)
def test_invalid_retry_policy_is_refused_at_load(said: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match=r"execution\.retries"):
        Retries(**said)


# -- of a step ------------------------------------------------------------------------------------

READER, AUDITED = "marts.revenue", "core.orders"


def worth_another(*events: msg.Event, end: msg.EvaluationFinished | msg.RequestFailed) -> msg.EvaluationRequest | None:
    """What is tried again after an attempt in which `marts.revenue` read `staging.orders`."""
    project = manifest(model("staging.orders"), model(READER, reads=["staging.orders"]), model(AUDITED))
    nodes = (fqn("staging.orders"), fqn(READER))
    request = msg.EvaluationRequest(msg.OpenProject(("/shop",), None, None, None), "prod", nodes, (), {AUDITED: ()}, 0)
    ledger = Ledger(nodes, [AUDITED])
    for event in events:
        ledger.feed(event)
    return next_attempt(request, ledger, end, retries().is_transient, project_assets(project).downstream_of)


def test_refused_request_is_not_retried() -> None:
    assert worth_another(end=msg.EvaluationFinished("not_run")) is None


def test_downstream_model_of_a_persistent_failure_is_not_retried() -> None:
    gone = msg.RequestFailed("WorkerError", "killed", is_transient=True)
    failed = msg.NodeFailed(fqn("staging.orders"), "BinderException", "no such column", ())
    both, neither = worth_another(end=gone), worth_another(failed, end=gone)
    assert both is not None
    assert both.models == (fqn("staging.orders"), fqn(READER))
    assert neither is not None
    assert (neither.models, neither.audit_only) == ((), {AUDITED: ()})
