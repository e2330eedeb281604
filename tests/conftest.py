"""What all tests share: how hypothesis draws."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, so that a test goes red because of a change. `make fuzz` draws new ones.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("fuzz", print_blob=True)
settings.load_profile("same")
