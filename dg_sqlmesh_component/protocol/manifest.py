"""The manifest: a SQLMesh project as plain data, as far as Dagster shows it.

The worker creates it, the component stores it as JSON, and Dagster's processes read it. They never import SQLMesh.
Names and shapes are SQLMesh's; `definitions/translator.py` decides how they look in Dagster.
Standard library only: Dagster's processes and the worker both import this module.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Protocol, TypeVar

from dg_sqlmesh_component.protocol.formatting import unquoted
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.texts import ProjectText, Query

MANIFEST_VERSION = 6
"""Increased whenever a field changes its meaning. A manifest of another version is not read."""


MAX_COLUMNS = 1_000
"""How many columns of a model are kept. More are left out and counted."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a model. `type` is SQL in the model's dialect, or `UNKNOWN` if SQLMesh cannot infer it."""

    name: str
    type: str
    description: ProjectText | None


@dataclass(frozen=True, slots=True)
class Audit:
    """One use of an audit by a model, or a standalone audit."""

    name: str  # the audit's name in SQLMesh
    position: int  # its index in `model.audits_with_args`
    check_name: str  # name of its asset check, made of its name and arguments; unique for the model
    blocking: bool  # whether a failure stops the model, after any `blocking := false` on the model
    args: dict[str, ProjectText]  # arguments as SQL text, without `blocking`
    args_hash: str  # differs for different arguments, and is the same for those of the promoted version
    query: Query | None  # the audit's SQL as written; None if SQLMesh cannot print it
    path: str | None  # file that defines it; None for SQLMesh's built-in audits
    description: ProjectText | None  # the audit's own description, if any


@dataclass(frozen=True, slots=True)
class DbtNode:
    """dbt's properties of a model or test that SQLMesh has loaded from a dbt project."""

    unique_id: str  # as in dbt's own manifest
    group: str | None = None
    meta: Query | None = None  # `meta` as JSON text
    severity: str | None = None  # `error` or `warn`, for a test
    tests: str | None = None  # the fqn of the model that a test belongs to


INCREMENTAL_KINDS = frozenset(
    {"INCREMENTAL_BY_TIME_RANGE", "INCREMENTAL_BY_UNIQUE_KEY", "INCREMENTAL_BY_PARTITION", "INCREMENTAL_UNMANAGED"}
)
"""Kinds of models whose query is given an interval and may select the rows of that interval only.

A query of another kind selects everything (`FULL`, `VIEW`, `SEED`, `SCD_TYPE_2`), or nobody knows (`CUSTOM`).
"""


_UNIT_MILLISECONDS = {
    unit: round(timedelta(**length) / timedelta(milliseconds=1))
    for unit, length in {
        "year": {"days": 365},
        "month": {"days": 30},
        "day": {"days": 1},
        "hour": {"hours": 1},
        "half_hour": {"minutes": 30},
        "quarter_hour": {"minutes": 15},
        "five_minute": {"minutes": 5},
    }.items()
}


@dataclass(frozen=True, slots=True)
class Model:
    """One SQLMesh model."""

    fqn: str  # SQLMesh's quoted, fully qualified name; the identity of the model everywhere
    name: str  # the name as its author wrote it
    # catalog, schema, table: The parts of `fqn`, unquoted; catalog is None if the engine has none.
    catalog: str | None
    schema: str
    table: str
    kind: str  # `FULL`, `VIEW`, `SEED`, `INCREMENTAL_BY_TIME_RANGE`, `EMBEDDED`, `EXTERNAL` ...
    source_type: str  # `sql`, `python`, `seed` or `external`
    dialect: str
    description: ProjectText | None
    # As written. `owner_email` is set if the project's `users` contain that name. Keys and groups are made of owner and
    # tags, so no secret is hidden in them: a password may be a word like `postgres`.
    owner: str | None
    owner_email: str | None
    tags: tuple[str, ...]
    cron: str
    cron_tz: str | None
    interval_unit: str
    start: str | None  # as written in the model or the project's defaults
    end: str | None
    lookback: int
    batch_size: int | None
    time_column: str | None
    unique_key: tuple[str, ...]
    # grains, references, partitioned_by, clustered_by: SQL text, one entry per expression.
    grains: tuple[str, ...]
    references: tuple[str, ...]
    partitioned_by: tuple[str, ...]
    clustered_by: tuple[str, ...]
    storage_format: str | None
    signals: tuple[str, ...]
    columns: tuple[Column, ...]
    audits: tuple[Audit, ...]
    depends_on: tuple[str, ...]  # the `fqn`s that it reads, sorted; also of tables that no model declares
    table_name: str  # the table or view that consumers read in the manifest's environment, unquoted, with dots
    gateway: str | None  # as written; None if the project's gateway runs it
    engine: str  # connection type of the gateway that runs it (`duckdb`, `snowflake` ...)
    project: str
    data_hash: str  # SQLMesh's hash of what determines the model's data
    metadata_hash: str  # SQLMesh's hash of its other properties (description, owner, audits ...)
    path: str | None  # the file that defines it; None for a model from another project's state
    columns_cut: int = 0  # number of columns that were left out, to keep the manifest small
    query: Query | None = None  # the SQL as its file has it; only on request, and only for SQL models
    # The columns that each column is made of, as (fqn, column); only on request.
    column_lineage: dict[str, tuple[tuple[str, str], ...]] | None = None
    column_lineage_cut: int = 0  # number of such pairs that were left out, to keep the manifest small
    source_url: str | None = None  # the file on the web page of its repository; only on request
    dbt: DbtNode | None = None  # dbt's properties, for a model of a dbt project
    # `name` after its catalog, if that is not the project's default one and not in `name`.
    name_with_catalog: str | None = None
    starts_at: int | None = None  # `start` in epoch milliseconds, when the manifest was made: it may be `1 year ago`
    stores_rows: bool = False  # of a view: it has the rows of its last refresh, because its engine materializes it

    @property
    def display_name(self) -> str:
        """The name in texts. Models of one schema and name in two catalogs differ in it, as in SQLMesh's texts."""
        return self.name_with_catalog or self.name

    @property
    def is_external(self) -> bool:
        """True if SQLMesh reads its table and does not compute it."""
        return self.kind == "EXTERNAL"

    @property
    def is_embedded(self) -> bool:
        """True if it has no table, because SQLMesh inlines its query into downstream models."""
        return self.kind == "EMBEDDED"

    @property
    def is_incremental(self) -> bool:
        """True if SQLMesh computes it range by range, so that a missing interval can mean missing rows."""
        return self.kind in INCREMENTAL_KINDS

    @property
    def interval_milliseconds(self) -> int:
        """The length of an interval; for a month or a year, about."""
        return _UNIT_MILLISECONDS[self.interval_unit]

    def interval_count(self, milliseconds: int) -> int:
        """How many intervals a range has. A model that is always computed as a whole has one."""
        return max(1, round(milliseconds / self.interval_milliseconds)) if self.is_incremental else 1

    @property
    def is_executable(self) -> bool:
        """True if SQLMesh computes a table or view for it. Only such models become assets."""
        return not (self.is_external or self.is_embedded)


@dataclass(frozen=True, slots=True)
class StandaloneAudit:
    """An audit that belongs to no model. SQLMesh runs it as a node with its own cron."""

    audit: Audit  # its check; `audit.name` also identifies it in SQLMesh
    depends_on: tuple[str, ...]  # the `fqn`s that it reads, sorted
    cron: str
    owner: str | None
    dbt: DbtNode | None = None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of a project, taken without SQLMesh."""

    model_files: dict[str, str]  # size and time of change of the SQL files below `models`, by path
    rest: str  # a digest of everything else: other files, configuration, versions, selection

    def files_changed_since(self, before: Fingerprint) -> frozenset[str] | None:
        """The SQL files of models that have changed; None if anything else has changed too."""
        if self.rest != before.rest or self.model_files.keys() != before.model_files.keys():
            return None
        return frozenset(path for path, stamp in self.model_files.items() if stamp != before.model_files[path])


@dataclass(frozen=True, slots=True)
class AnsweredSelection:
    """A selection of a job or schedule, with SQLMesh's answer."""

    # select, exclude: Selections in SQLMesh's language, as written.
    select: tuple[str, ...]
    exclude: tuple[str, ...]
    models: tuple[str, ...] = ()  # the `fqn`s of the selected models, sorted


_HasPath = TypeVar("_HasPath", Model, Audit)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole project, for one gateway and one environment."""

    version: int  # `MANIFEST_VERSION` of the writer
    paths: tuple[str, ...]  # absolute project folders, in the order given
    gateway: str  # the gateway that was selected
    environment: str  # the environment whose promoted models a run executes
    # Every model, sorted by `fqn`. Models that are not selected are included, because lineage leads through them.
    models: tuple[Model, ...]
    selected: tuple[str, ...]  # the `fqn`s of the models that `select` and `exclude` leave; only these become assets
    standalone_audits: tuple[StandaloneAudit, ...]  # sorted by name
    # Whether SQLMesh added models of other projects that share the state. They change without a file.
    reads_state: bool = False
    sources: Fingerprint | None = None  # the project's fingerprint; None if it cannot show every change
    state_key: str | None = None  # Dagster's key of the manifest; None before it is stored
    # Answers to selections of the code location, so that no later process starts SQLMesh for them.
    selections: tuple[AnsweredSelection, ...] = ()
    problem: str | None = None  # why SQLMesh could not load the project later, if `dg dev` has kept this manifest

    @property
    def audit_names(self) -> frozenset[str]:
        """The names of all audits that models use, and of all standalone audits."""
        used = {audit.name for model in self.models for audit in model.audits}
        return frozenset(used | {standalone.audit.name for standalone in self.standalone_audits})

    def answer_to(self, select: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[str, ...] | None:
        """The stored answer to a selection, as `fqn`s; None for a new selection."""
        answers = {(answered.select, answered.exclude): answered.models for answered in self.selections}
        return answers.get((select, exclude))

    def models_changed_by(self, files: Collection[str]) -> frozenset[str]:
        """The `fqn`s of the models in these files and of their downstream models; empty if a file has no model."""
        by_path: dict[str | None, set[str]] = defaultdict(set)
        downstream: dict[str, set[str]] = defaultdict(set)
        for model in self.models:
            by_path[model.path].add(model.fqn)
            for fqn in model.depends_on:
                downstream[fqn].add(model.fqn)
        if not by_path.keys() >= set(files):
            return frozenset()
        return frozenset(reachable((fqn for file in files for fqn in by_path[file]), lambda fqn: downstream[fqn]))

    def with_models_of(self, part: Manifest) -> Manifest:
        """A newer manifest that has only some models, completed with the other models and the selection of this one."""
        reloaded = {model.fqn: model for model in part.models}
        models = tuple(reloaded.get(model.fqn, model) for model in self.models)
        return replace(part, models=models, selected=self.selected)

    def at(self, paths: tuple[str, ...]) -> Manifest:
        """The same manifest with other project folders: an image may be built in one folder and run in another."""
        if paths == self.paths:
            return self
        moves = [(f"{before}{os.sep}", f"{now}{os.sep}") for before, now in zip(self.paths, paths, strict=True)]

        def moved(node: _HasPath) -> _HasPath:
            for before, now in moves:
                if node.path is not None and node.path.startswith(before):
                    return replace(node, path=now + node.path.removeprefix(before))
            return node

        models = (replace(model, audits=tuple(map(moved, model.audits))) for model in self.models)
        standalone = (replace(node, audit=moved(node.audit)) for node in self.standalone_audits)
        return replace(self, paths=paths, models=tuple(map(moved, models)), standalone_audits=tuple(standalone))


def split_fqn(fqn: str) -> tuple[str, ...]:
    """The unquoted parts of SQLMesh's quoted name, outermost first."""
    return tuple(part.replace('""', '"') for part in re.findall(r'"((?:[^"]|"")*)"', fqn))


_NAME_PART = re.compile(r""""((?:[^"]|"")*)"|`([^`]*)`|([^."`]+)""")
"""A part of a name: in quotes, in those of BigQuery, or without."""


@dataclass(frozen=True)
class ModelNames:
    """Finds models by the names that people write."""

    by_fqn: Mapping[str, str]  # the display name of each model

    def fitting(self, written: str) -> list[str]:
        """The models that a written name fits, by fqn. Whoever needs one model refuses a name that fits several.

        An fqn fits that model only. In any other name, case and quotes do not count, and the catalog may be left out.
        """
        return [written] if written in self.by_fqn else self._by_parts.get(_parts(written), [])

    def to_write(self, fqn: str) -> str:
        """A name that fits this model only: the display name, or the full name, with quotes if it needs them."""
        return next((name for name in (self.by_fqn[fqn], unquoted(fqn)) if self.fitting(name) == [fqn]), fqn)

    @cached_property
    def _by_parts(self) -> dict[tuple[str, ...], list[str]]:
        found: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for fqn, name in self.by_fqn.items():
            parts = _parts(fqn)
            for names in {_parts(name), *(parts[index:] for index in range(len(parts)))}:
                found[names].append(fqn)
        return dict(found)


def _parts(name: str) -> tuple[str, ...]:
    return tuple("".join(groups).replace('""', '"').casefold() for groups in _NAME_PART.findall(name))


class UsedAudit(Protocol):
    """One of a node's audits: its name, a hash of its arguments, and its index in the node's list of audits."""

    @property
    def name(self) -> str: ...
    @property
    def args_hash(self) -> str: ...
    @property
    def position(self) -> int: ...


_Local = TypeVar("_Local", bound=UsedAudit)
_Promoted = TypeVar("_Promoted", bound=UsedAudit)


def pair_audits(local: Iterable[_Local], promoted: Iterable[_Promoted]) -> list[tuple[_Local, _Promoted]]:
    """Pair a node's audits in the local project with its promoted audits, which may differ.

    Audits of the same name and arguments are paired, in their order. Audits without a counterpart are left out: another
    argument is another question.
    """
    unpaired, pairs = list(local), []
    for audit in promoted:
        use = next((use for use in unpaired if (use.name, use.args_hash) == (audit.name, audit.args_hash)), None)
        if use is not None:
            unpaired.remove(use)
            pairs.append((use, audit))
    return pairs
