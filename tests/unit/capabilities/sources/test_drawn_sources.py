"""Random histories of loads: the rule and an oracle, written from docs/wait.md alone, agree at each instant."""

from hypothesis import given, settings
from source_histories import History, as_source, histories, instants, is_complete

from dg_sqlmesh_component.capabilities.sources.complete_sources import completeness

EXAMPLES = {20: 100, 60: 100, 600: 2_000}
"""How many histories are drawn, by the number of examples of the profile: a history has one of many kinds."""


@settings(max_examples=EXAMPLES[settings().max_examples])
@given(histories())
def test_a_source_is_complete_exactly_for_the_instants_that_the_page_says(history: History) -> None:
    incomplete = completeness(as_source(history)).incomplete
    for instant in instants(history):
        if instant <= history.now:  # no model asks for a later one
            found = not any(begin <= instant < end for begin, end in incomplete)
            assert found is is_complete(history, instant), instant
