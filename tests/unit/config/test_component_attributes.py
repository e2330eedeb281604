"""Attributes of the component: any value in any place either loads or is refused with a readable error."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import dagster as dg
import pytest
import yaml
from dagster.components.resolved.errors import ResolutionException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from unit.builders import audit
from unit.config.attributes import ATTRIBUTE_PATHS, EVERYTHING, loaded, replaced, values

import dg_sqlmesh_component
from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.config.attribute_types import Audits, Budget, Execution
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.definitions.automation import cron_tick_condition
from dg_sqlmesh_component.history.costs import RecordedCost
from dg_sqlmesh_component.protocol.errors import ConfigurationError, SQLMeshComponentError
from dg_sqlmesh_component.run.limits import over_budget


def test_base_attributes_load() -> None:
    assert loaded(EVERYTHING).asset_key_for_model("marts.revenue")


def test_template_of_translation_can_keep_the_condition_that_automation_gives() -> None:
    condition = "{{ dg.AutomationCondition.eager() if model.schema == 'marts' else spec.automation_condition }}"
    component = loaded({**EVERYTHING, "automation": "cron", "translation": {"automation_condition": condition}})
    conditions = {spec.key.path[0]: spec.automation_condition for spec in component._project_assets.specs.values()}
    assert conditions == {"core": cron_tick_condition("@daily", "UTC"), "marts": dg.AutomationCondition.eager()}


# Dagster checks types before it renders templates, so a template may give any of these values.
AWKWARD: list[Any] = [
    *["", " ", "\x00", "a\nb", "2024-01-01", "{{ none }}", "{{ [1] }}", "{{ {} }}", "{{ {1: 2} }}", "{{ 1 / 3 }}"],
    *["{{ dg.AutomationCondition }}", "{{ dg.AutomationCondition.eager }}", "{{ model.tags }}", "{{ spec }}"],
    *[None, True, 0, 1.5, float("nan"), [], [None], [[]], {}, {"": ""}, {"a": None}, {"a": [{}]}],
]


def loads_or_is_refused(path: tuple[Any, ...], value: Any) -> None:
    try:
        loaded(replaced(path, value))
    except (ValidationError, ResolutionException, SQLMeshComponentError) as refusal:
        assert str(refusal)  # noqa: PT017  # the type of the error does not matter here


@settings(suppress_health_check=list(HealthCheck))
@given(st.sampled_from(ATTRIBUTE_PATHS), values)
def test_random_value_of_an_attribute_loads_or_is_refused(path: tuple[Any, ...], value: Any) -> None:
    loads_or_is_refused(path, value)


@pytest.mark.parametrize("number", range(len(AWKWARD)), ids=lambda number: repr(AWKWARD[number]))
def test_awkward_value_of_an_attribute_loads_or_is_refused(number: int) -> None:
    """Each attribute gets a fifth of the values, and all in `make fuzz`."""
    value, step = AWKWARD[number], 5 if settings().derandomize else 1
    for path in ATTRIBUTE_PATHS[number % step :: step]:
        loads_or_is_refused(path, value)


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        (("project",), "`project` in defs.yaml is of type list. "),  # a mapping with `env` is allowed
        (("project", "gateway"), "`project.gateway` in defs.yaml is [1]. Input should be a valid string."),
        (("project", "env"), "`project.env` in defs.yaml is of type list. Input should be a valid dictionary."),
        (("execution", "retries", "delay"), "`execution.retries.delay` in defs.yaml is [1]. Input should be a valid"),
        (("translation", "metadata"), "`translation` in defs.yaml cannot be applied to Model core.orders ("),
    ],
    ids=str,
)
def test_template_that_renders_a_wrong_type_is_refused_with_its_attribute(path: tuple[str, ...], refusal: str) -> None:
    with pytest.raises((SQLMeshComponentError, ResolutionException)) as raised:
        loaded(replaced(path, "{{ [1] }}"))
    assert refusal in str(raised.value)


TEXTS = ["0123", "1.10", "2024_10", "1e10", "0x80004005", "'quoted'", "True", "...", "for None", " 7"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "written", ["{}", "{{{{ env.TEXT }}}}", "{{{{ env('TEXT', '') }}}}", "{{{{ env('UNSET', '{}') }}}}"]
)
def test_text_is_never_read_as_a_python_value(written: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT", text)
    monkeypatch.delenv("UNSET", raising=False)
    it = written.format(text.replace("'", "\\'") if "UNSET" in written else text)
    retries = {"max_retries": 1, "transient_errors": [it]}
    component = loaded(
        {
            "project": {"path": "shop", "gateway": it, "env": {"IT": it}},
            "schedule": {"tags": {"it": it}},
            "execution": {"environments": [it], "retries": retries},
            "janitor": {"tags": {"it": it}},
        }
    )
    assert component.schedule is not None
    assert component.janitor is not None
    assert component.execution.retries is not None
    texts = [component.project.gateway, component.project.env["IT"], component.schedule.tags["it"]]
    texts += [*component.execution.environments, *component.execution.retries.transient_errors]
    assert {*texts, component.janitor.tags["it"]} == {text}


def test_json_of_a_variable_reaches_sqlmesh_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_FILE", '{"type": "service_account"}')
    component = loaded({"project": {"path": "shop", "env": {"KEY_FILE": "{{ env.KEY_FILE }}"}}})
    assert component.project.env == {"KEY_FILE": '{"type": "service_account"}'}


def test_template_in_place_of_a_list_or_mapping_of_texts_renders_to_one() -> None:
    project = {"path": "{{ ['shop', 'crm'] }}", "env": "{{ {'A': 'b'} }}"}
    component = loaded({"project": project, "execution": {"environments": "{{ ['dev', 'pr_*'] }}"}})
    assert [path.name for path in component.project.paths] == ["shop", "crm"]
    assert (component.project.env, component.execution.environments) == ({"A": "b"}, ["dev", "pr_*"])


@pytest.mark.parametrize(
    ("attributes", "path"),
    [
        ({"restate": {"jobs": [{"by": "day"}, {"by": "month", "select": "{{ env.UNSET }}"}]}}, "restate.jobs.1.select"),
        ({"external_models": {"wait": {"tables": "{{ env.UNSET }}"}}}, "external_models.wait.tables"),
        ({"external_models": {"wait": "{{ env.UNSET }}"}}, "external_models.wait"),
        ({"execution": {"concurrent_tasks": "{{ env.UNSET }}"}}, "execution.concurrent_tasks"),
        ({"execution": {"environments": ["pr_{{ env.UNSET }}"]}}, "execution.environments.0"),
        ({"op": {"tags": {"team": "{{ env.UNSET }}"}}}, "op.tags.team"),
        ({"project": {"path": "shop", "env": {"PASSWORD": "{{ env.UNSET }}"}}}, "project.env.PASSWORD"),
        ({"external_models": {"keys": {"raw.events": "dlt/{{ env.UNSET }}"}}}, "external_models.keys.raw.events"),
        ({"schedule": "{{ env.UNSET }}"}, "schedule"),
    ],
    ids=str,
)
def test_unset_variable_is_refused_at_any_depth(
    attributes: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `select`, for example, a backfill would rewrite all models."""
    monkeypatch.delenv("UNSET", raising=False)
    problem = rf"{re.escape(path)}\n(.|\n)*The environment variable UNSET is not set\. Set it or give a default"
    with pytest.raises(ResolutionException, match=problem):
        SQLMeshProjectComponent.resolve_from_yaml(yaml.safe_dump({"project": "shop", **attributes}))


@pytest.mark.parametrize("written", ["{{ env.WAIT }}", "{{ env('UNSET', 'false') }}"])
@pytest.mark.parametrize("value", ["false", "False"])
def test_variable_turns_a_switch_off_inside_a_mapping(
    written: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAIT", value)
    monkeypatch.delenv("UNSET", raising=False)
    assert loaded({"project": "shop", "external_models": {"wait": written}}).external_models.wait is None


def test_text_of_an_environment_variable_becomes_number_or_boolean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS", "7")
    monkeypatch.setenv("CHECKS", "false")
    attributes = {**EVERYTHING, "execution": {"concurrent_tasks": "{{ env.TASKS }}"}}
    component = loaded({**attributes, "execution_status_check": "{{ env.CHECKS }}"})
    assert (component.execution.concurrent_tasks, component.execution_status_check) == (7, False)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("execution", "concurrent_tasks"), 0, "greater than 0"),
        (("execution", "concurrent_tasks"), -4, "greater than 0"),
        (("execution", "overlap_timeout"), -1.0, "greater than or equal to 0"),
        (("execution", "environment_timeout"), -1, "greater than or equal to 0"),
        (("execution", "retries", "max_retries"), -1, "greater than or equal to 0"),
        (("execution", "retries", "delay"), -1, "greater than or equal to 0"),
        (("audits", "sample_rows"), -1, "greater than or equal to 0"),
        (("audits", "sample_rows"), 21, "less than or equal to 20"),
        (("restate", "max_intervals"), 0, "greater than 0"),
        (("budget", "seconds"), 0, "greater than 0"),
        (("budget", "bytes"), -1, "greater than 0"),
        (("preview", "diff", "max_rows"), 0, "greater than 0"),
    ],
    ids=str,
)
def test_number_beyond_its_limit_is_refused_at_its_key_in_yaml_and_from_a_variable(
    path: tuple[str, ...], value: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attributes(written: Any) -> dict[str, Any]:
        nested = {path[-1]: written}
        if path[:2] == ("execution", "retries"):
            nested = {"max_retries": 3, **nested}
        for name in reversed(path[:-1]):
            nested = {name: nested, **({"environment": "pr_1"} if name == "diff" else {})}
        return {"project": "shop", **nested}

    with pytest.raises(ValidationError) as refusal:
        loaded(attributes(value))
    [error] = refusal.value.errors()
    assert (error["loc"], error["msg"]) == (path, f"Input should be {expected}")
    monkeypatch.setenv("NUMBER", str(value))
    written = re.escape(f"`{'.'.join(path)}` in defs.yaml is ") + rf"\S+\. Input should be {expected}\."
    with pytest.raises(ConfigurationError, match=written):
        loaded(attributes("{{ env.NUMBER }}"))


@pytest.mark.parametrize("path", [("budget", "seconds"), ("execution", "tag_concurrency_limits", "heavy")])
def test_switch_is_no_number(path: tuple[str, ...]) -> None:
    value: Any = True
    for name in reversed(path[1:]):
        value = {name: value}
    with pytest.raises(ValidationError) as refusal:
        loaded({"project": "shop", path[0]: value})
    [error] = refusal.value.errors()
    assert (error["loc"], error["msg"]) == (path, "Value error, write a number")
    with pytest.raises(
        ConfigurationError, match=rf"`{'.'.join(path)}` in defs.yaml is true or false. Write a number\."
    ):
        {"budget": Budget, "execution": Execution}[path[0]](**value)


@pytest.mark.parametrize("written", [float("inf"), float("-inf"), float("nan")])
def test_number_must_be_finite(written: float) -> None:
    with pytest.raises(
        ConfigurationError, match=r"`budget.seconds` in defs.yaml is \S+ Input should be a finite number"
    ):
        Budget(seconds=written)


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"preview": {"environment": " "}}, "`preview.environment` in defs.yaml is ' '"),
        ({"preview": {"environment": "pr_1", "columns": ["id"]}}, "`preview.columns` in .* is about sampled rows"),
        ({"audits": {"mask": ["email"]}}, "`audits.mask` in defs.yaml is about sampled rows, and there are none."),
        ({"audits": {"checks": "none", "sample_rows": 5}}, "`audits.sample_rows` in defs.yaml shows rows on asset"),
        ({"external_models": {"wait": {"tables": []}}}, "`external_models.wait.tables` in defs.yaml is an empty list"),
        ({"project": {"path": "shop", "environment": " "}}, "`project.environment` in defs.yaml is ' '. Write a name."),
        ({"project": {"path": []}}, "it needs at least one folder"),
        ({"op": {"name": "load_2"}}, r"`op\.name` in defs\.yaml is 'load_2'\. It must not end in"),
        ({"budget": {}}, "`budget` in defs.yaml sets no limit. Write one, for example `seconds: 1800`."),
        ({"query_history_url": "https://acme.com/{id}"}, r"'https://acme.com/\{id\}'. It must contain \{run_id\}"),
        ({"external_models": {"late": "warn"}}, "is warn. It compares the tables that the models wait for. Set them"),
        (
            {"external_models": {"wait": True, "late": "restate"}, "schedule": True},
            "is restate. A tick of the schedule requests the restatements. Set both",
        ),
        ({"schedule": True, "automation": "cron"}, "has both `schedule` and `automation`, .* Remove one of them"),
    ],
    ids=str,
)
def test_contradicting_or_empty_attributes_are_refused(attributes: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        loaded({"project": "shop", **attributes})


def test_attributes_without_a_value_contradict_nothing() -> None:
    assert loaded(
        {"project": "shop", "schedule": True, "restate": {"max_intervals": None}, "automation": None}
    ).schedule


@pytest.mark.parametrize(
    ("checks", "with_check"),
    [
        ("all", ["not_null", "unique_values", "Recent"]),
        ("blocking", ["not_null"]),
        ("none", []),
        ([], []),
        (["UNIQUE_*", "recent"], ["unique_values", "Recent"]),
        (["not_nul"], []),
    ],
    ids=str,
)
def test_audits_are_checks_as_configured(checks: Any, with_check: list[str]) -> None:
    audits = [audit("not_null"), audit("unique_values", blocking=False), audit("Recent", blocking=False)]
    assert [each.name for each in audits if Audits(checks=checks).has_check(each)] == with_check


@pytest.mark.parametrize("checks", ["some", 3, None])
def test_other_values_for_audit_checks_are_refused(checks: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"`audits\.checks` in defs\.yaml is "):
        Audits(checks=checks)


def test_names_of_no_audit_are_refused_only_in_a_list() -> None:
    Audits(checks="blocking").refuse_unmatched(["not_null"])
    Audits(checks=["not_*"]).refuse_unmatched(["NOT_NULL"])
    with pytest.raises(ConfigurationError, match=r"names 'not_nul', .* Did you mean not_null\?"):
        Audits(checks=["not_nul"]).refuse_unmatched(["not_null", "unique_values"])


def test_limit_below_one_or_for_a_tag_of_no_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`execution\.tag_concurrency_limits` in .* greater than 0"):
        Execution(tag_concurrency_limits={"heavy": 0})
    limited = Execution(tag_concurrency_limits={"heavy": 1})
    limited.refuse_unmatched({"heavy", "light"})
    with pytest.raises(ConfigurationError, match=r"names 'heavy', .* has that tag\. Did you mean Heavy\?"):
        limited.refuse_unmatched({"Heavy", "light"})


def _resolved_classes(declaring: type) -> set[type]:
    """The classes that the attributes of a class resolve to, and theirs."""
    found: set[type] = set()
    for annotation in get_type_hints(declaring).values():
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and candidate.__module__.startswith("dg_sqlmesh_component."):
                found |= {candidate} | _resolved_classes(candidate)
    return found


def test_every_class_that_an_attribute_resolves_to_is_importable_from_the_package() -> None:
    classes = _resolved_classes(ComponentAttributes)
    assert len(classes) >= 20
    assert {found.__name__ for found in classes if not hasattr(dg_sqlmesh_component, found.__name__)} == set()
    assert issubclass(ConfigurationError, dg_sqlmesh_component.SQLMeshComponentError)


@pytest.mark.attribute("budget.seconds", "budget.bytes")
@pytest.mark.parametrize("name", ["seconds", "bytes"])
def test_a_budget_compares_the_sum_of_all_known_costs(name: str) -> None:
    costs = [*(RecordedCost(**{"seconds": 1.0, name: cost}) for cost in (60.0, 41.0)), RecordedCost(0)]
    assert over_budget(Budget(**{name: 101}), costs) is None
    excess = over_budget(Budget(**{name: 100}), costs)
    assert excess is not None
    assert f"`budget.{name}` in defs.yaml is 100.0." in excess


@pytest.mark.parametrize(
    ("limit", "estimate", "sentence"),
    [
        (0.01, 0.014, "is 0.014 seconds, and `budget.seconds` in defs.yaml is 0.01."),
        (0.000001, 0.3, "is 0.3 seconds, and `budget.seconds` in defs.yaml is 0.000001."),
        (1800.0, 1800.0004, "is 1,800.0004 seconds, and `budget.seconds` in defs.yaml is 1,800.0."),
        (1800, 3661.27, "is 3,661.3 seconds, and `budget.seconds` in defs.yaml is 1,800.0."),
    ],
)
def test_excess_shows_the_limit_as_written_and_a_higher_estimate(limit: float, estimate: float, sentence: str) -> None:
    assert over_budget(Budget(seconds=limit), [RecordedCost(estimate)]) == f"The estimate from earlier runs {sentence}"


OPEN = """
import sys
from pathlib import Path
from dg_sqlmesh_component.config.project import SQLMeshProject
SQLMeshProject((Path(sys.argv[1]),)).check_folders()
"""


@pytest.mark.advice("set the environment variable PYTHONUTF8=1 for Dagster's processes. If not, rename the folder.")
def test_folder_whose_name_is_not_utf_8_is_opened_in_utf_8_or_with_another_name(tmp_path: Path) -> None:
    def refusal(folder: bytes, **env: str) -> str:
        environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", **env}
        command: list[str | bytes] = [sys.executable, "-c", OPEN, os.path.join(os.fsencode(tmp_path), folder)]
        return subprocess.run(command, env=environment, capture_output=True, text=True).stderr

    for name, how in (("größe", "utf-8"), ("größe", "latin-1")):
        folder = os.path.join(os.fsencode(tmp_path), name.encode(how))
        os.mkdir(folder)
        Path(os.fsdecode(folder), "config.yaml").touch()
        assert "whose name is not UTF-8 in this process. If it is UTF-8, set" in refusal(name.encode(how))
    assert refusal("größe".encode(), PYTHONUTF8="1") == ""
    assert "If not, rename the folder." in refusal("größe".encode("latin-1"), PYTHONUTF8="1")
    os.rename(folder, tmp_path / "renamed")
    assert refusal(b"renamed") == ""


def test_folder_whose_name_is_not_utf_8_is_refused_with_what_to_set() -> None:
    folder = Path(os.fsdecode(b"/data/gr\xf6\xdfe"))
    with pytest.raises(ConfigurationError, match=r"the folder '/data/gr\\udcf6\\udcdfe'.*set .*PYTHONUTF8=1"):
        SQLMeshProject((folder,))
