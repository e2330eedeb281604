"""The sentence of each kind of cause, and their order."""

import dagster as dg
import pytest
from unit.builders import days, fqn, manifest, model, project_assets

from dg_sqlmesh_component.definitions.awaited import Source
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.causes import CauseWording
from dg_sqlmesh_component.report.outcomes import NodeOutcome, Outcome
from dg_sqlmesh_component.report.wording import Wording

ORDERS, STAGING, OTHER, OTHERS, DELETED = map(
    fqn, ("core.orders", "core.staging", "core.other", "raw.of_others", "raw.deleted")
)
READS = (days(1, 3),)
OURS = ("core.orders", "core.staging", "core.other")
ASSETS = project_assets(manifest(*map(model, OURS), model("raw.of_others"), selected=OURS))
TABLES = [f"t{number}" for number in range(5)]
SOURCES = {table: Source(dg.AssetKey(table), (), lambda reads: f"has nothing for {reads}") for table in TABLES}
SIGNAL = msg.Cause("signal", ORDERS, ("landed",))
SIGNAL_UPSTREAM = msg.Cause("signal", STAGING, ("landed", "counted"))
SOURCE = msg.Cause("source", "t0")
NOT_LOADED = f"t0 has nothing for {READS}"
UNSELECTED = "models upstream have pending intervals and are not part of this step"
SELECT = "Select them too, with all models upstream of them"
NOT_OURS = (
    "models upstream have pending intervals and are not in this component: raw.of_others. "
    "Run them with their own component or with `sqlmesh run`"
)
UNKNOWN = (
    "models upstream have pending intervals and are not in the manifest: db.raw.deleted. If their files were deleted, "
    "promote the deletion with `sqlmesh plan`. If not, run them with their own component or with `sqlmesh run`"
)


SENTENCES: dict[str, tuple[list[msg.Cause], list[str], str]] = {
    "a failed model upstream": (
        [msg.Cause("failed", STAGING), msg.Cause("failed", OTHER)],
        [],
        "a model upstream of it failed: core.staging, core.other",
    ),
    "its signal": ([SIGNAL], [], "its signal landed has no interval ready"),
    "a signal upstream": (
        [SIGNAL_UPSTREAM],
        [],
        "upstream model core.staging is waiting for its signal landed, counted",
    ),
    "a source": ([SOURCE], [], NOT_LOADED),
    "many sources": (
        [msg.Cause("source", table) for table in TABLES],
        [],
        "; ".join(f"{table} has nothing for {READS}" for table in TABLES[:3]) + "; and 2 more sources",
    ),
    "older intervals of its own": (
        [msg.Cause("own", ORDERS)],
        ["start"],
        "other intervals of it are pending, outside of the range of this run, and SQLMesh has to compute them before "
        "these or together with them. Launch a run of it without `start` first",
    ),
    "refused intervals of its own": (
        [msg.Cause("own", ORDERS, refused=(days(1, 1),))],
        ["restate"],
        "other intervals of it are pending (its rows of 2026-01-01 are old or refused), outside of the range of this "
        "run, and SQLMesh has to compute them before these or together with them. "
        "Launch a run of it without `restate` first",
    ),
    "a model beyond two bounds": (
        [msg.Cause("bounds", STAGING)],
        ["start", "end"],
        "models upstream have pending intervals that this run leaves out: core.staging. "
        "Launch a run without `start` and `end`",
    ),
    "refused rows beyond the bounds": (
        [msg.Cause("bounds", STAGING, refused=(days(1, 2),))],
        ["start"],
        "models upstream have pending intervals that this run leaves out: core.staging (its rows of 2026-01-01 to "
        "2026-01-02 (2 days) are old or refused). Launch a run without `start`",
    ),
    "a gap beyond the bounds": (
        [msg.Cause("bounds", STAGING, gap=(days(1, 1),))],
        ["start"],
        "models upstream have pending intervals that this run leaves out: core.staging (it lacks 2026-01-01, and has "
        "later rows). Launch a run without `start`",
    ),
    "a gap with refused rows": (
        [msg.Cause("unselected", STAGING, refused=(days(1, 1),), gap=(days(1, 1),))],
        [],
        f"{UNSELECTED}: core.staging (its rows of 2026-01-01 are old or refused). {SELECT}",
    ),
    "a model that another step has not computed": (
        [msg.Cause("not_computed", STAGING)],
        [],
        "models upstream have pending intervals that no step of this run has computed: core.staging. "
        "Their status checks have the reason",
    ),
    "models that are not selected": (
        [msg.Cause("unselected", STAGING, ("landed",)), msg.Cause("unselected", OTHER)],
        [],
        f"{UNSELECTED}: core.staging (its signal landed was not evaluated), core.other. {SELECT}",
    ),
    "a model that is not in this component": ([msg.Cause("unselected", OTHERS)], [], NOT_OURS),
    "a model that is not in the manifest": ([msg.Cause("unselected", DELETED)], [], UNKNOWN),
    "models of this component and others": (
        [msg.Cause("unselected", of) for of in (DELETED, OTHERS, STAGING)],
        [],
        f"{UNSELECTED}: core.staging. {SELECT}; {NOT_OURS}; {UNKNOWN}",
    ),
    "no cause hides another": (
        [msg.Cause("unselected", OTHER), SOURCE, SIGNAL, SIGNAL_UPSTREAM],
        [],
        "its signal landed has no interval ready; upstream model core.staging is waiting for its signal landed, "
        f"counted; {NOT_LOADED}; {UNSELECTED}: core.other. {SELECT}",
    ),
    "none": ([], [], ""),
}


@pytest.mark.parametrize(("causes", "bounds", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_causes_have_these_sentences(causes: list[msg.Cause], bounds: list[str], sentence: str) -> None:
    wording = CauseWording(ASSETS, SOURCES, bounds)
    assert wording.text(ORDERS, msg.HeldBack(tuple(causes), READS)) == sentence


def test_a_signal_that_was_ready_for_a_part_is_not_ready_for_the_rest() -> None:
    text = CauseWording(ASSETS).text(ORDERS, msg.HeldBack((SIGNAL,)), is_part=True)
    assert text == "its signal landed is not ready for them"


@pytest.mark.parametrize(
    ("through_others", "signals", "causes", "sentence"),
    [
        (False, (), [SOURCE], ". The first run after its sources are loaded computes it."),
        (True, (), [SOURCE], ". When its sources are loaded, launch a run of it with all models upstream of it."),
        (False, ("files",), [SOURCE], ", and its signal files was not evaluated."),
        (False, ("landed",), [SIGNAL, SOURCE], "."),
    ],
    ids=["only sources", "sources of models that are not selected", "a signal that was not evaluated", "also a signal"],
)
def test_a_model_that_waits_for_sources_says_which_run_computes_it(
    *, through_others: bool, signals: tuple[str, ...], causes: list[msg.Cause], sentence: str
) -> None:
    idle = msg.NodeIdle(ORDERS, held_back=msg.HeldBack(tuple(causes), READS, through_others))
    wording = Wording(project_assets(manifest(model("core.orders", signals=signals))), "prod", sources=SOURCES)
    text = wording.sentence(NodeOutcome(ORDERS, Outcome.WAITING, idle=idle))
    assert text.endswith(f"{NOT_LOADED}{sentence}")


def test_a_run_with_bounds_says_that_a_run_without_them_computes_the_model() -> None:
    """With the same bounds, it may still lack what they leave out."""
    idle = msg.NodeIdle(ORDERS, held_back=msg.HeldBack((SOURCE,), READS))
    wording = Wording(ASSETS, "prod", sources=SOURCES, bounds=["start", "end"])
    text = wording.sentence(NodeOutcome(ORDERS, Outcome.WAITING, idle=idle))
    assert text.endswith(" The first run without `start` and `end` after its sources are loaded computes it.")
