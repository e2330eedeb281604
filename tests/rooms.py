"""The capabilities of the package, and who may import them. `tests/test_doors.py` checks it."""

ROOTS = ("__init__.py", "component.py", "config/component_attributes.py", "config/external_models.py")
"""The modules that list all capabilities, a line each."""

CAPABILITIES: dict[str, dict[str, str]] = {
    "dry_run": {"restatements": "a dry run predicts restatements too"},
    "janitor": {},
    "plans": {"janitor": "a closed preview is deleted by the janitor, with its lock and its results"},
    "polling_sensor": {},
    "project_tests": {},
    "query": {},
    "restatements": {},
    "scaffolder": {},
    "schedule": {"sources": "a tick requests what a load has made ready, and restates late data"},
    "sources": {},
}
"""The other capabilities that each capability may import, with the reason."""


def with_dependents(capability: str) -> set[str]:
    """Return a capability and those that do not work without it."""
    removed = {capability}
    while more := {name for name, others in CAPABILITIES.items() if removed & others.keys()} - removed:
        removed |= more
    return removed
