"""SQLMesh's side of the pipe: the only code that imports SQLMesh and sqlglot. It never imports Dagster.

It runs in a process of its own, which is started in the project's folder, possibly by another interpreter
(ADR-0010). This package imports nothing itself, because `__main__` must take over the standard streams
before SQLMesh can write to them.
"""
