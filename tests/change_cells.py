"""Cells of the matrix of changes: a model before and after a change, with its readers, as plain data.

Each row of the source has an id, and each model shows the ids that it reads. So a row can be followed from prod before
a change to a reader after two runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

NOW = datetime(2026, 3, 10, 12)
"""When prod was planned, and when the change is planned, in UTC."""
START = "2026-03-04"
"""The start of the project: three days of the source are before it."""
TABLE = "raw.rows"
Row = tuple[int, datetime | None]


def source_rows() -> dict[int, datetime | None]:
    """The time of each row, by id: four a day, some of today and of later days, and two without a time."""
    first = NOW.replace(hour=0, minute=30) - timedelta(days=9)
    times: list[datetime | None] = [first + timedelta(hours=6 * n) for n in range(4 * 13)]
    times += [NOW + timedelta(days=40), None, None]
    return dict(enumerate(times, 1))


ROWS = source_rows()


def region(at: datetime | None) -> str:
    """Where a row is: the four regions that a computed interval does not contain, or a complete day."""
    if at is None:
        return "NULL"
    if at < datetime.fromisoformat(START):
        return "before start"
    if at.date() < NOW.date():
        return "complete days"
    return "running" if at < NOW else "future"


def sql_of_source() -> str:
    rows = ", ".join(
        f"({number}, {'NULL' if at is None else repr(str(at))}, {number % 7})" for number, at in ROWS.items()
    )
    return (
        "SELECT id::INT AS id, ts::TIMESTAMP AS ts, ts::TIMESTAMP::DATE AS d, v::INT AS v, "
        f"TIMESTAMP '2026-02-01' AS updated FROM (VALUES {rows}) AS t(id, ts, v)"
    )


def seed_file() -> str:
    lines = [
        f"{number},{at or ''},{at.date() if at else ''},{number % 7},2026-02-01 00:00:00" for number, at in ROWS.items()
    ]
    return "\n".join(["id,ts,d,v,updated", *lines, ""])


@dataclass(frozen=True)
class Kind:
    """A kind of a model.

    Attributes:
        sql: The kind, as in the head of a model.
        is_filtered: Whether the query has the rows of the batch only, and not all of them.
        language: sql, python or seed.
        more: Further properties that the kind needs.
    """

    sql: str
    is_filtered: bool = False
    language: str = "sql"
    more: str = ""

    @property
    def word(self) -> str:
        return self.sql.split(" ", 1)[0]


KINDS = {
    "full": Kind("FULL"),
    "view": Kind("VIEW"),
    "materialized": Kind("VIEW (materialized true)"),
    "embedded": Kind("EMBEDDED"),
    "python": Kind('"FULL"', language="python"),
    "seed": Kind("SEED (path '../seeds/rows.csv')", language="seed"),
    "time": Kind("INCREMENTAL_BY_TIME_RANGE (time_column ts{})", is_filtered=True),
    "key": Kind("INCREMENTAL_BY_UNIQUE_KEY (unique_key id{})", is_filtered=True),
    "key_all": Kind("INCREMENTAL_BY_UNIQUE_KEY (unique_key id{})"),
    "partition": Kind("INCREMENTAL_BY_PARTITION", is_filtered=True, more="partitioned_by d"),
    "partition_all": Kind("INCREMENTAL_BY_PARTITION", more="partitioned_by d"),
    "unmanaged": Kind("INCREMENTAL_UNMANAGED", is_filtered=True),
    "scd_time": Kind("SCD_TYPE_2_BY_TIME (unique_key id, updated_at_name updated{})"),
    "scd_column": Kind("SCD_TYPE_2_BY_COLUMN (unique_key id, columns [v]{})"),
    "custom": Kind("CUSTOM (materialization 'own')", is_filtered=True),
}
PYTHON_KIND = '{{"name": ModelKindName.INCREMENTAL_BY_TIME_RANGE, "time_column": "ts"}}'
PYTHON_TIME = Kind(PYTHON_KIND, is_filtered=True, language="python")
"""Another kind of readers."""

PYTHON = """
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


COLUMNS = {{"id": "int", "ts": "timestamp", "d": "date", "v": "int", "updated": "timestamp"}}


@model({name!r}, kind={kind}, columns=COLUMNS, depends_on=[{reads!r}])
def execute(context, start, end, execution_time, **kwargs):
    table = {reads!r} if {reads!r} == "raw.rows" else context.resolve_table({reads!r})
    rows = context.fetchdf(f"SELECT id, ts, d, v * {factor} AS v, updated FROM {{table}} {where}")
    if not rows.empty:  # SQLMesh refuses an empty result, and wants none
        yield rows
"""


@dataclass(frozen=True)
class Definition:
    """A definition of a model or reader.

    Attributes:
        kind: One of KINDS.
        options: Further options of the kind, such as `forward_only true`.
        head: Further properties of the model, such as `cron '@hourly'`.
        factor: What the values are multiplied by: another factor is another query.
        reads: The table that it reads.
        is_blueprint: Whether it is one of two models of a file, made of `blueprints`.
    """

    kind: str
    options: str = ""
    head: str = ""
    factor: int | str = 1
    reads: str = TABLE
    is_blueprint: bool = False

    def file(self, name: str) -> tuple[str, str]:
        """The path and the text of the file of this model, by the name of the table."""
        kind, table = {**KINDS, "python_time": PYTHON_TIME}[self.kind], f"t.{name}"
        if kind.language == "python":
            where = "WHERE ts BETWEEN '{start}' AND '{end}'" if kind.is_filtered else ""
            text = PYTHON.format(name=table, kind=kind.sql.format(), reads=self.reads, factor=self.factor, where=where)
            return f"models/{name}.py", text
        options, factor = f", {self.options}" if self.options else "", str(self.factor)
        parts = [f"name {table}", f"kind {kind.sql.format(options)}", kind.more, self.head]
        if self.is_blueprint:
            parts[0], factor = f"name @schema.{name}", "@factor"
            parts.append(f"blueprints ((schema := t, factor := {self.factor}), (schema := u, factor := 7))")
        head = ", ".join(filter(None, parts))
        if kind.language == "seed":
            return (
                f"models/{name}.sql",
                f"MODEL ({head}, columns (id INT, ts TIMESTAMP, d DATE, v INT, updated TIMESTAMP));",
            )
        where = " WHERE ts BETWEEN @start_ts AND @end_ts" if kind.is_filtered else ""
        query = f"SELECT id, ts, d, (v * {factor})::INT AS v, updated FROM {self.reads}{where}"
        return f"models/{name}.sql", f"MODEL ({head});\n{query}"


READERS: Mapping[str, Definition] = {
    "view": Definition("view"),
    "full": Definition("full"),
    "time": Definition("time"),
    "embedded": Definition("embedded"),
    "over_embedded": Definition("time", reads="{embedded}"),
    "over_view": Definition("time", reads="{view}"),
}
MORE_READERS: Mapping[str, Definition] = {
    **READERS,
    "hourly": Definition("time", head="cron '@hourly'"),
    "key": Definition("key"),
    "partition": Definition("partition"),
    "kept": Definition("time", options="disable_restatement true"),
}
OTHER_READERS: Mapping[str, Definition] = {
    "materialized": Definition("materialized"),
    "python": Definition("python"),
    "python_time": Definition("python_time"),
    "weekly": Definition("full", head="cron '@weekly'"),
    "weekly_time": Definition("time", head="cron '@weekly'"),
    "over_weekly": Definition("time", reads="{weekly}"),
    "full": Definition("full"),
    "over_full": Definition("time", reads="{full}"),
    "key_all": Definition("key_all"),
    "over_key": Definition("time", reads="{key_all}"),
    "partition_all": Definition("partition_all"),
    "unmanaged": Definition("unmanaged"),
    "scd_time": Definition("scd_time"),
    "scd_column": Definition("scd_column"),
    "over_scd": Definition("time", reads="{scd_column}"),
    "custom": Definition("custom"),
    "blueprint": Definition("time", is_blueprint=True),
}


@dataclass(frozen=True)
class Setting:
    """What all cells of a project have in common.

    Attributes:
        before, after: Text that is added to `config.yaml`.
        start, start_after: The start of `model_defaults`.
        selects: Which models each plan selects: "model", "readers", or "" for all. A plan is applied before the next.
    """

    before: str = ""
    after: str = ""
    start: str = START
    start_after: str = START
    selects: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Cell:
    """One change of one model, with its readers.

    Attributes:
        group: Cells of one group stand in one project.
        readers_after: The readers after the change; None if they do not change.
        between: The model in the plans before the last one; None if it is as after the change.
    """

    name: str
    group: str
    before: Definition
    after: Definition
    readers: Mapping[str, Definition] = field(default_factory=lambda: READERS)
    setting: Setting = Setting()
    readers_after: Mapping[str, Definition] | None = None
    between: Definition | None = None

    def files_before(self, prefix: str) -> dict[str, str]:
        return self._files(prefix, self.before, self.readers)

    def files_of_plan(self, prefix: str, number: int) -> dict[str, str]:
        """The files of the model and its readers for a plan, by path. The first plan has the number 0."""
        is_last = number == len(self.setting.selects) - 1
        model = self.after if is_last or self.between is None else self.between
        return self._files(prefix, model, self.readers if self.readers_after is None else self.readers_after)

    def files_after(self, prefix: str) -> dict[str, str]:
        return self.files_of_plan(prefix, len(self.setting.selects) - 1)

    def selected(self, prefix: str, number: int) -> list[str]:
        """The models that a plan selects. None: all."""
        readers = [f"t.{name}" for name in self.tables(prefix)[1:]]
        return {"": [], "model": [f"t.{prefix}"], "readers": readers}[self.setting.selects[number]]

    def _files(self, prefix: str, model: Definition, readers: Mapping[str, Definition]) -> dict[str, str]:
        names = {reader: f"{prefix}_{reader}" for reader in readers}
        files = [model.file(prefix)]
        for reader, definition in readers.items():
            reads = f"t.{prefix}" if definition.reads == TABLE else "t." + definition.reads.format(**names)
            files.append(replace(definition, reads=reads).file(names[reader]))
        return dict(files)

    def tables(self, prefix: str) -> list[str]:
        """The names of the tables and views: that of the model, and those of its readers."""
        return [prefix, *(f"{prefix}_{reader}" for reader in self.readers)]

    @property
    def run_days(self) -> tuple[int, ...]:
        """After how many days a run follows. A weekly reader ticks on the fifth day."""
        return (1, 2, 6) if "weekly" in self.readers else (1, 2)

    @property
    def is_hourly(self) -> bool:
        return "hourly" in f"{self.after.head} {self.setting.after}"


def kind_cells() -> Iterator[Cell]:
    for before in KINDS:
        for after in KINDS:
            if before != after:
                yield Cell(f"{before}-{after}", f"from {before}", Definition(before), Definition(after))


def attribute_cells() -> Iterator[Cell]:
    """Changes of attributes of a model, of which the readers have computed the intervals before."""
    for kind in ("time", "key", "partition", "unmanaged"):
        can_be_forward_only = kind in ("time", "key")
        plain = Definition(kind)
        late, early, first, last = "start '2026-03-06'", "start '2026-03-02'", "end '2026-03-07'", "end '2026-03-08'"
        changes = {
            "start earlier than the readers": (plain, replace(plain, head=early)),
            "start earlier": (replace(plain, head=late), plain),
            "start later": (plain, replace(plain, head=late)),
            "end later": (replace(plain, head=first), replace(plain, head=last)),
            "end removed": (replace(plain, head=first), plain),
            "end earlier": (plain, replace(plain, head=first)),
            "daily to hourly": (plain, replace(plain, head="cron '@hourly'")),
            "hourly to daily": (replace(plain, head="cron '@hourly'"), plain),
            "20:00 to daily": (replace(plain, head="cron '0 20 * * *'"), plain),
            "daily to 20:00": (plain, replace(plain, head="cron '0 20 * * *'")),
            "daily to weekly": (plain, replace(plain, head="cron '@weekly'")),
            "daily to monthly": (plain, replace(plain, head="cron '@monthly'")),
            "weekly to daily": (replace(plain, head="cron '@weekly'"), plain),
            "cron_tz to New York": (plain, replace(plain, head="cron_tz 'America/New_York'")),
            "cron_tz to Tokyo": (plain, replace(plain, head="cron_tz 'Asia/Tokyo'")),
            "cron_tz from New York": (replace(plain, head="cron_tz 'America/New_York'"), plain),
            "allow_partials": (plain, replace(plain, head="allow_partials true")),
            "no allow_partials": (replace(plain, head="allow_partials true"), plain),
            "interval_unit hour": (plain, replace(plain, head="interval_unit 'hour'")),
            "lookback": (plain, replace(plain, options="lookback 2")),
            "auto_restatement_cron": (plain, replace(plain, options="auto_restatement_cron '@daily'")),
            "disable_restatement": (plain, replace(plain, options="disable_restatement true")),
        }
        if not can_be_forward_only:
            changes = {
                n: c
                for n, c in changes.items()
                if n not in ("lookback", "auto_restatement_cron", "disable_restatement")
            }
        if kind == "partition":  # SQLMesh would replace a day by the rows of an hour
            del changes["daily to hourly"]
        for name, (before, after) in changes.items():
            yield Cell(f"{kind}: {name}", f"attributes of {kind}", before, after, MORE_READERS)
        if can_be_forward_only:
            pinned = replace(plain, head="physical_version 'pinned'", options="forward_only true")
            yield Cell(f"{kind}: physical_version", f"attributes of {kind}", plain, pinned, MORE_READERS)
        for name, (before, after) in changes.items():
            if before.head == after.head:
                continue
            yield Cell(
                f"{kind}: {name}, other query",
                f"attributes and query of {kind}",
                before,
                replace(after, factor=10),
                MORE_READERS,
            )
            if can_be_forward_only:
                yield Cell(
                    f"{kind}: {name}, forward_only",
                    f"forward-only attributes of {kind}",
                    replace(before, options="forward_only true"),
                    replace(after, options="forward_only true"),
                    MORE_READERS,
                )
                yield Cell(
                    f"{kind}: {name}, forward_only, other query",
                    f"forward-only attributes and query of {kind}",
                    replace(before, options="forward_only true"),
                    replace(after, options="forward_only true", factor=10),
                    MORE_READERS,
                )


def whole_cells() -> Iterator[Cell]:
    """Changes of attributes of a model whose query is computed as a whole."""
    for kind in ("full", "view", "scd_column"):
        plain = Definition(kind)
        for name, head in {
            "monthly": "cron '@monthly'",
            "start today": "start '2026-03-10'",
            "start tomorrow": "start '2026-03-11'",
            "end": "end '2026-03-07'",
        }.items():
            for factor in (1, 10):
                query = ", other query" if factor > 1 else ""
                after = replace(plain, head=head, factor=factor)
                yield Cell(f"{kind}: {name}{query}", f"attributes of {kind}", plain, after, MORE_READERS)
                if kind == "view" or name == "end":  # SQLMesh cannot compute a reader of a table that does not exist
                    yield Cell(
                        f"{kind}: {name} removed{query}",
                        f"attributes of {kind}",
                        replace(after, factor=1),
                        replace(plain, factor=factor),
                        MORE_READERS,
                    )
    plain = Definition("time")
    for name, head in {"start today": "start '2026-03-10'", "start tomorrow": "start '2026-03-11'"}.items():
        for factor in (1, 10):
            query = ", other query" if factor > 1 else ""
            yield Cell(
                f"time: {name}{query}",
                "empty attributes of time",
                plain,
                replace(plain, head=head, factor=factor),
                MORE_READERS,
            )


DEV_ONLY = "virtual_environment_mode: dev_only\n"


def setting_cells() -> Iterator[Cell]:
    """Changes of the project's configuration."""
    settings = {
        "dev_only on": Setting(after=DEV_ONLY),
        "dev_only off": Setting(before=DEV_ONLY),
        "default start earlier": Setting(start_after="2026-03-02"),
        "default start later": Setting(start_after="2026-03-06"),
        "variable": Setting(before="variables: {factor: 1}\n", after="variables: {factor: 10}\n"),
        "default cron hourly": Setting(after="  cron: '@hourly'\n"),
        "default cron daily": Setting(before="  cron: '@hourly'\n"),
    }
    for name, setting in settings.items():
        factor = "@factor" if name == "variable" else 1
        for kind in ("full", "view", "time", "key", "partition", "unmanaged", "scd_column", "seed"):
            if (kind in ("view", "seed") and name == "variable") or (kind, name) == (
                "partition",
                "default cron hourly",
            ):
                continue
            definition = Definition(kind, factor=factor)
            # SQLMesh would replace a day of a partitioned reader by the rows of an hour.
            left_out = "partition" if name == "default cron hourly" else ""
            readers = {reader: of for reader, of in MORE_READERS.items() if reader != left_out}
            yield Cell(f"{name}: {kind}", name, definition, definition, readers, setting)
    for before, after in (
        ("full", "time"),
        ("time", "full"),
        ("view", "time"),
        ("scd_column", "full"),
        ("time", "key"),
    ):
        yield Cell(
            f"in dev_only: {before}-{after}",
            "in dev_only",
            Definition(before),
            Definition(after),
            READERS,
            Setting(before=DEV_ONLY, after=DEV_ONLY),
        )


def selected_cells() -> Iterator[Cell]:
    """The changes of a time range's attributes, planned with `select`."""
    for cell in attribute_cells():
        if cell.group == "attributes of time":
            group = "selected attributes of time"
            yield replace(cell, name=f"{cell.name}, selected", group=group, setting=Setting(selects=("model",)))


def few_changes() -> dict[str, tuple[Definition, Definition]]:
    """A change of each sort."""
    time, full = Definition("time"), Definition("full")
    return {
        "full-time": (full, time),
        "time-full": (time, full),
        "view-time": (Definition("view"), time),
        "embedded-time": (Definition("embedded"), time),
        "time: start earlier": (replace(time, head="start '2026-03-06'"), time),
        "time: start later": (time, replace(time, head="start '2026-03-06'")),
        "time: end later": (replace(time, head="end '2026-03-07'"), replace(time, head="end '2026-03-08'")),
        "time: daily to hourly": (time, replace(time, head="cron '@hourly'")),
        "time: 20:00 to daily": (replace(time, head="cron '0 20 * * *'"), time),
        "time: other query": (time, replace(time, factor=10)),
        "time: forward_only, start earlier": (
            replace(time, head="start '2026-03-06'", options="forward_only true"),
            replace(time, options="forward_only true"),
        ),
    }


def other_reader_cells() -> Iterator[Cell]:
    """Changes with readers of all kinds."""
    for name, (before, after) in few_changes().items():
        # Python cannot read an embedded model.
        in_python = () if before.kind != "embedded" else ("python", "python_time")
        readers = {reader: of for reader, of in OTHER_READERS.items() if reader not in in_python}
        yield Cell(f"{name}, other readers", "other readers", before, after, readers)


def blueprint_cells() -> Iterator[Cell]:
    for name, (before, after) in few_changes().items():
        if before.kind != "embedded":
            of_blueprint = [replace(definition, is_blueprint=True) for definition in (before, after)]
            yield Cell(f"blueprint, {name}", "blueprints", of_blueprint[0], of_blueprint[1])
    yield Cell("time-blueprint", "blueprints", Definition("time"), Definition("time", is_blueprint=True))


def changed_reader_cells() -> Iterator[Cell]:
    """Changes of a model and its readers, together and one after the other, and changes that are taken back."""
    readers = {name: MORE_READERS[name] for name in ("view", "full", "time", "over_view", "hourly", "key", "kept")}
    changed = {name: replace(reader, factor=3) for name, reader in readers.items()}
    forward = {
        name: replace(reader, factor=3, options="forward_only true")
        for name, reader in readers.items()
        if reader.kind in ("time", "key") and not reader.options
    }
    orders = {"together": ("",), "model first": ("model", ""), "readers first": ("readers", "")}
    for order, selects in orders.items():
        setting = Setting(selects=selects)
        for name, (before, after) in few_changes().items():
            cell = Cell(f"{name}, readers, {order}", f"readers {order}", before, after, readers, setting)
            yield replace(cell, readers_after=changed)
            yield replace(
                cell,
                name=f"{name}, forward-only readers, {order}",
                group=f"forward-only readers {order}",
                readers_after={**readers, **forward},
            )
    for name, (before, after) in few_changes().items():
        setting = Setting(selects=("", ""))
        yield Cell(f"{name}, taken back", "taken back", before, before, readers, setting, between=after)


def all_cells() -> list[Cell]:
    return [
        *kind_cells(),
        *attribute_cells(),
        *whole_cells(),
        *setting_cells(),
        *selected_cells(),
        *other_reader_cells(),
        *blueprint_cells(),
        *changed_reader_cells(),
    ]
