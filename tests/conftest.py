"""The Hypothesis profiles of all tests."""

from __future__ import annotations

from hypothesis import settings

# Every run draws the same examples, so that a test fails only because of a change. `make fuzz` draws new ones.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("fuzz", print_blob=True)
settings.load_profile("same")
