"""Random histories of loads: the rule and an oracle, written from docs/source-rules.md alone, agree at each instant."""

from datetime import timedelta

import dagster as dg
from hypothesis import given, settings
from source_histories import History, dagster_definition, dynamic_keys, histories, instants, is_complete

from dg_sqlmesh_component.history.complete_sources import (
    CheckResult,
    CheckStatus,
    Load,
    SourceHistory,
    Target,
    completeness,
)

EXAMPLES = {60: 100, 600: 2_000}
"""How many histories are drawn, by the number of examples of the profile: a history has one of many kinds."""


def of(history: History) -> SourceHistory:
    """The same history, as the rule takes it."""
    runs = {load.storage_id: load.run_id for load in history.loads}
    stated = [
        until.value if isinstance(until := load.complete_until, dg.MetadataValue) else until for load in history.loads
    ]
    return SourceHistory(
        dagster_definition(history.definition) if history.known_here else None,
        history.known_here,
        [
            Load(load.storage_id, load.partition, load.instant, load.run_id, until)
            for load, until in zip(history.loads, stated, strict=True)
        ],
        [
            CheckResult(
                result.check,
                result.run_id,
                result.storage_id,
                None if result.target is None else Target(result.target, runs[result.target]),
                result.partitions,
                CheckStatus(result.status),
            )
            for result in history.results
        ],
        dynamic_keys(history.definition),
        timedelta(milliseconds=history.lag),
        history.now,
    )


@settings(max_examples=EXAMPLES[settings().max_examples])
@given(histories())
def test_a_source_is_complete_exactly_for_the_instants_that_the_page_says(history: History) -> None:
    incomplete = completeness(of(history)).incomplete
    for instant in instants(history):
        if instant <= history.now:  # no model asks for a later one
            found = not any(begin <= instant < end for begin, end in incomplete)
            assert found is is_complete(history, instant), instant
