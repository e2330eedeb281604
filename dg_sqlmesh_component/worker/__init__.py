"""The other side of the pipe: the only code that imports SQLMesh and sqlglot, and never Dagster.

It runs in a process of its own, started in the project's folder, possibly by another interpreter
(ADR-0010). Importing this package imports nothing yet: `__main__` takes over the standard streams
before SQLMesh gets a chance to write to them.
"""
