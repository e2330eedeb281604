"""Every outcome has a rule and a sentence."""

import pytest
from unit.builders import project_assets
from unit.outcome_table import ORDERS, SHOP

from dg_sqlmesh_component.report.outcomes import RULES, Event, NodeOutcome, Outcome, Released, Verdict
from dg_sqlmesh_component.report.wording import Wording

WORDING = Wording(project_assets(SHOP), "prod")


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_rule_and_a_sentence_with_the_name_of_the_model(outcome: Outcome) -> None:
    assert outcome in RULES
    assert WORDING.summary(NodeOutcome(ORDERS, outcome)).startswith("core.orders")


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.is_failure])
def test_failure_releases_no_step_repeats_no_result_and_is_no_materialization(outcome: Outcome) -> None:
    rule = outcome.rule
    assert (rule.releases, rule.repeats, rule.event) == (Released.NONE, False, Event.OBSERVATION)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_an_interrupted_model_has_not_failed_if_the_run_was_cancelled(outcome: Outcome) -> None:
    cancelled = NodeOutcome(ORDERS, outcome, is_cancelled=True, was_started=True)
    changed = cancelled.verdict is not outcome.rule.verdict
    assert changed == (outcome is Outcome.INTERRUPTED)
    assert not changed or cancelled.verdict is Verdict.WARNING


@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_blocked_or_interrupted_model_has_not_failed_if_the_run_did_not_begin_with_it(outcome: Outcome) -> None:
    untouched = NodeOutcome(ORDERS, outcome)
    assert untouched.is_untouched == (outcome in (Outcome.BLOCKED, Outcome.INTERRUPTED))
    assert untouched.verdict is (Verdict.WARNING if untouched.is_untouched else outcome.rule.verdict)
