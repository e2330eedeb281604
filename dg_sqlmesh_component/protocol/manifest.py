"""A SQLMesh project as plain data: what Dagster needs to know to show it.

Written by the worker, stored as JSON by the component, read by Dagster's processes, which
never import SQLMesh. Names and shapes are SQLMesh's; how they look in Dagster is `translator`'s.
Standard library only: both worlds read this module.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from dg_sqlmesh_component.protocol.graph import reachable

MANIFEST_VERSION = 5
"""Raised whenever a field changes its meaning; a manifest of another version is not read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept of what may be large.

    Attributes:
        characters: Of a query, or of dbt's `meta`; more is cut, with a note.
        columns: Of a model's schema; more are left out, and counted.
        lineage_pairs: Pairs of columns of a model's column lineage; more are left out, and counted.
    """

    characters: int = 4_000
    columns: int = 1_000
    lineage_pairs: int = 1_000


DEFAULT_LIMITS = Limits()

CUT_NOTE = "\n-- cut here: "
"""How the note begins behind a text that was cut."""


def cut(text: str, characters: int) -> str:
    """A text of at most so many characters, with a note where something was cut."""
    if len(text) <= characters:
        return text
    note = f"{CUT_NOTE}{len(text)} characters in all"
    return text[: characters - len(note)] + note


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a model. `type` is SQL in the model's dialect; `UNKNOWN` where SQLMesh cannot infer it."""

    name: str
    type: str
    description: str | None


@dataclass(frozen=True, slots=True)
class Audit:
    """One use of an audit by a model, or a standalone audit.

    Attributes:
        name: The audit's name, as SQLMesh has it.
        position: Its place in `model.audits_with_args`, which is how results are matched.
        check_name: Name of its asset check, made of its name and arguments, unique on its model.
        blocking: Whether a failure stops the model, after any `blocking := false` on the model.
        args: Arguments as SQL text, without `blocking`.
        query: The audit's SQL as written, None where SQLMesh cannot print it.
        path: File that defines it, None for SQLMesh's built-in audits.
        description: The audit's own description, if any.
    """

    name: str
    position: int
    check_name: str
    blocking: bool
    args: dict[str, str]
    query: str | None
    path: str | None
    description: str | None


@dataclass(frozen=True, slots=True)
class DbtNode:
    """What dbt says of a model or test that SQLMesh has loaded from a dbt project.

    Attributes:
        unique_id: As in dbt's own manifest.
        meta: `meta`, as JSON text.
        severity: Of a test, `error` or `warn`.
        tests: The fqn of the model that a test belongs to.
    """

    unique_id: str
    group: str | None = None
    meta: str | None = None
    severity: str | None = None
    tests: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One SQLMesh model.

    Attributes:
        fqn: SQLMesh's quoted, fully qualified name; the identity of the model everywhere.
        name: The name as its author wrote it.
        catalog, schema, table: The parts of `fqn`, unquoted; catalog is None where the engine has none.
        kind: `FULL`, `VIEW`, `SEED`, `INCREMENTAL_BY_TIME_RANGE`, `EMBEDDED`, `EXTERNAL` ...
        source_type: `sql`, `python`, `seed` or `external`.
        owner: As written. `owner_email` is set where the project's `users` know that name.
        start: As written in the model or the project's defaults.
        grains, references, partitioned_by, clustered_by: SQL text, one entry an expression.
        depends_on: The `fqn`s it reads, sorted, also of tables that no model declares.
        table_name: The table or view that consumers read in the manifest's environment, unquoted, dotted.
        gateway: As written; None where the project's gateway runs it.
        engine: Connection type of the gateway that runs it (`duckdb`, `snowflake` ...).
        data_hash: SQLMesh's hash of what determines the model's data.
        metadata_hash: SQLMesh's hash of the rest (description, owner, audits ...).
        path: The file it comes from, None when it comes from another project's state.
        columns_cut: How many columns were left out, to keep the manifest small.
        query: The rendered SQL; only on request, and only of SQL models.
        column_lineage: The columns that each column is made of, as (fqn, column); only on request.
        column_lineage_cut: How many such pairs were left out, to keep the manifest small.
        source_url: The file on the web page of its repository; only on request.
        dbt: What dbt says of it, for a model of a dbt project.
    """

    fqn: str
    name: str
    catalog: str | None
    schema: str
    table: str
    kind: str
    source_type: str
    dialect: str
    description: str | None
    owner: str | None
    owner_email: str | None
    tags: tuple[str, ...]
    cron: str
    cron_tz: str | None
    interval_unit: str
    start: str | None
    end: str | None
    lookback: int
    batch_size: int | None
    time_column: str | None
    unique_key: tuple[str, ...]
    grains: tuple[str, ...]
    references: tuple[str, ...]
    partitioned_by: tuple[str, ...]
    clustered_by: tuple[str, ...]
    storage_format: str | None
    signals: tuple[str, ...]
    columns: tuple[Column, ...]
    audits: tuple[Audit, ...]
    depends_on: tuple[str, ...]
    table_name: str
    gateway: str | None
    engine: str
    project: str
    data_hash: str
    metadata_hash: str
    path: str | None
    columns_cut: int = 0
    query: str | None = None
    column_lineage: dict[str, tuple[tuple[str, str], ...]] | None = None
    column_lineage_cut: int = 0
    source_url: str | None = None
    dbt: DbtNode | None = None

    @property
    def is_external(self) -> bool:
        """Whether somebody else produces its table; SQLMesh only reads it."""
        return self.kind == "EXTERNAL"

    @property
    def is_embedded(self) -> bool:
        """Whether it has no table of its own and is inlined where it is read."""
        return self.kind == "EMBEDDED"

    @property
    def is_executable(self) -> bool:
        """Whether SQLMesh computes a table or view for it, which makes it an asset of ours."""
        return not (self.is_external or self.is_embedded)


@dataclass(frozen=True, slots=True)
class StandaloneAudit:
    """An audit that belongs to no model: SQLMesh runs it as a node of its own, on its own cron.

    Attributes:
        audit: Its check; `audit.name` is also its identity in SQLMesh.
        depends_on: The `fqn`s it reads, sorted.
    """

    audit: Audit
    depends_on: tuple[str, ...]
    cron: str
    owner: str | None
    dbt: DbtNode | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """What a manifest was made of, as far as it can be seen without SQLMesh.

    Attributes:
        model_files: Size and time of change of the SQL files below `models`, by path.
        rest: A digest of everything else: other files, configuration, versions, what was asked for.
    """

    model_files: dict[str, str]
    rest: str

    def files_changed_since(self, before: Sources) -> frozenset[str] | None:
        """The SQL files of models that are not what they were; None where anything else differs too."""
        if self.rest != before.rest or self.model_files.keys() != before.model_files.keys():
            return None
        return frozenset(path for path, stamp in self.model_files.items() if stamp != before.model_files[path])


@dataclass(frozen=True, slots=True)
class AnsweredSelection:
    """A selection that a job or a schedule has asked for, with SQLMesh's answer.

    Attributes:
        select, exclude: Selections in SQLMesh's language, as written.
        models: The `fqn`s that they leave, sorted.
    """

    select: tuple[str, ...]
    exclude: tuple[str, ...]
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole project, seen through one gateway and one environment.

    Attributes:
        version: `MANIFEST_VERSION` of the writer.
        paths: Absolute project folders, in the order given.
        gateway: The gateway that was selected.
        environment: The environment whose promoted models a run executes.
        models: Every model, sorted by `fqn`: those not selected too, since lineage passes through them.
        selected: The `fqn`s that `select` and `exclude` leave; only these become assets.
        standalone_audits: Sorted by name.
        reads_state: Whether SQLMesh added models of other projects, which share the state: they change without a file.
        sources: What it was made of; None where that cannot be told.
        state_key: The key of Dagster's under which it is stored; None before it is.
        selections: Selections that the code location has asked for, so that no later process starts SQLMesh for them.
    """

    version: int
    paths: tuple[str, ...]
    gateway: str
    environment: str
    models: tuple[Model, ...]
    selected: tuple[str, ...]
    standalone_audits: tuple[StandaloneAudit, ...]
    reads_state: bool = False
    sources: Sources | None = None
    state_key: str | None = None
    selections: tuple[AnsweredSelection, ...] = ()

    def answer_to(self, select: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[str, ...] | None:
        """The `fqn`s of a selection that was asked for before; None for a new one."""
        for answered in self.selections:
            if (answered.select, answered.exclude) == (select, exclude):
                return answered.models
        return None

    def models_changed_by(self, files: Collection[str]) -> frozenset[str]:
        """The `fqn`s of the models in these files, and of all that read them; empty where a file has none."""
        by_path: dict[str | None, set[str]] = defaultdict(set)
        readers: dict[str, set[str]] = defaultdict(set)
        for model in self.models:
            by_path[model.path].add(model.fqn)
            for fqn in model.depends_on:
                readers[fqn].add(model.fqn)
        if not by_path.keys() >= set(files):
            return frozenset()
        return frozenset(reachable((fqn for file in files for fqn in by_path[file]), lambda fqn: readers[fqn]))

    def with_models_of(self, part: Manifest) -> Manifest:
        """This manifest, as it is with the models of one that describes only some of them."""
        described = {model.fqn: model for model in part.models}
        return replace(
            part, models=tuple(described.get(model.fqn, model) for model in self.models), selected=self.selected
        )

    def at(self, paths: tuple[str, ...]) -> Manifest:
        """The same project in other folders: it was described where an image is built, and is read where that runs."""
        if paths == self.paths:
            return self
        moves = [(f"{before}{os.sep}", f"{now}{os.sep}") for before, now in zip(self.paths, paths, strict=True)]

        def moved(path: str | None) -> str | None:
            for before, now in moves:
                if path is not None and path.startswith(before):
                    return now + path.removeprefix(before)
            return path

        def moved_audit(audit: Audit) -> Audit:
            return replace(audit, path=moved(audit.path))

        return replace(
            self,
            paths=paths,
            models=tuple(
                replace(model, path=moved(model.path), audits=tuple(map(moved_audit, model.audits)))
                for model in self.models
            ),
            standalone_audits=tuple(
                replace(standalone, audit=moved_audit(standalone.audit)) for standalone in self.standalone_audits
            ),
        )


def split_fqn(fqn: str) -> tuple[str, ...]:
    """The unquoted parts of SQLMesh's quoted name, outermost first."""
    return tuple(part.replace('""', '"') for part in re.findall(r'"((?:[^"]|"")*)"', fqn))


class _Use(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def args(self) -> Mapping[str, str]: ...


_Defined = TypeVar("_Defined", bound=_Use)
_Found = TypeVar("_Found", bound=_Use)


def pair_uses(defined: Iterable[_Defined], found: Iterable[_Found]) -> list[tuple[_Defined, _Found]]:
    """Uses of audits in the local project beside those that are promoted, which may differ.

    They are paired by name and arguments, what is left of a name by its order; what has no counterpart is left out.
    """
    left, pairs = list(defined), []
    unpaired = list(found)
    for by_arguments in (True, False):
        for one in list(unpaired):
            same = (use for use in left if use.name == one.name and (not by_arguments or use.args == one.args))
            use = next(same, None)
            if use is not None:
                left.remove(use)
                unpaired.remove(one)
                pairs.append((use, one))
    return pairs
