"""What holds for all tests: the signals, and the profiles of Hypothesis."""

from __future__ import annotations

import signal

from hypothesis import settings

# A shell ignores SIGINT in what it starts in the background, and Dagster then ignores SIGTERM too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Every run draws the same examples, so that a test fails only because of a change. `make fuzz` draws new ones.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("fuzz", print_blob=True)
settings.load_profile("same")
