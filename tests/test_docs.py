"""The documents agree with the code, and their examples work.

A YAML block of the README or of `docs` is a `defs.yaml`, its `attributes`, or some of them. A block with `ops` is run
config. If a block shows another file, its first line is a comment with the name of that file, such as `# dagster.yaml`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_shared.yaml_utils import load_run_config_yaml
from harness import COMPONENT, REPOSITORY, dagster_project, load
from stored_manifest import store_manifest
from unit.builders import day, fqn, manifest, model

from dg_sqlmesh_component.capabilities.polling_sensor.plans import CHANGES
from dg_sqlmesh_component.protocol.manifest import AnsweredSelection, DbtNode
from dg_sqlmesh_component.report.outcomes import Outcome
from dg_sqlmesh_component.worker.__main__ import SQLMESH_FLOOR

README = REPOSITORY / "README.md"
SKILL = REPOSITORY / "skills" / "dg-sqlmesh" / "SKILL.md"
RECORDS = {path.name: path.read_text() for path in sorted((REPOSITORY / "docs/adr").glob("0*.md"))}
OFF_SITE = sorted((REPOSITORY / "contributing").glob("*.md"))
DOCUMENTS = [README, SKILL, *sorted((REPOSITORY / "docs").rglob("*.md")), *OFF_SITE]
SHOP = manifest(
    model("core.orders", reads=["raw.orders", "raw.customers"], kind="INCREMENTAL_BY_TIME_RANGE", starts_at=day(1)),
    model("marts.revenue", reads=["core.orders"], kind="VIEW", tags=("heavy",)),
)
ANSWERS = (
    AnsweredSelection(("tag:finance+",), ("scratch.*",), (fqn("marts.revenue"),)),
    AnsweredSelection(("tag:finance+",), (), (fqn("core.orders"), fqn("marts.revenue"))),
)
"""SQLMesh's answers to the selections in examples, so that loading them does not start SQLMesh."""
CRM = model("crm.customers")
"""The model of another component, to which an example refers."""


def blocks(pattern: str) -> Iterator[Any]:
    """Yield what a pattern with one group finds in the documents, each with its file and line as the test's id."""
    for document in DOCUMENTS:
        text = document.read_text()
        for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start(1)) + 1
            yield pytest.param(match[1], id=f"{document.relative_to(REPOSITORY)}:{line}")


def file_of(block: str) -> str:
    """Return the file that a YAML block shows: `run config`, or the name in its first line, or `defs.yaml`."""
    named = re.match(r" *#.*?(\w+\.ya?ml)", block)
    return "run config" if re.search("^ *ops:", block, re.MULTILINE) else named[1] if named else "defs.yaml"


YAML_BLOCKS = list(blocks(r"^ *```yaml\n(.*?)^ *```"))
DEFS_YAML = [block for block in YAML_BLOCKS if file_of(block.values[0]) == "defs.yaml"]
RUN_CONFIG = [block for block in YAML_BLOCKS if file_of(block.values[0]) == "run config"]
OTHER_YAML = [block for block in YAML_BLOCKS if block not in [*DEFS_YAML, *RUN_CONFIG]]
JSON_RUN_CONFIG = list(blocks(r"--config-json '(\{.*?\})'"))
PYTHON_BLOCKS = list(blocks(r"^ *```python\n(.*?)^ *```"))


def definitions_of(folder: Path, component: dict[str, Any], **modules: str) -> dg.Definitions:
    """Load a Dagster project with the component `shop`, the component `crm` and Python modules."""
    with dagster_project(folder) as dagster:
        component = {"type": COMPONENT, **component}
        component["attributes"] = {"project": "../../../shop", **component["attributes"]}
        project = component["attributes"]["project"]
        dagster.add_component("shop", component.pop("attributes"), **component)
        dagster.add_component("crm", {"project": "../../../crm"})
        for name, code in modules.items():
            dagster.add_module(name, code)
        store_manifest(dagster, "crm", manifest(CRM))
        of_dbt = [replace(model_, dbt=DbtNode(f"model.shop.{model_.table}")) for model_ in SHOP.models]
        models = of_dbt if "dbt" in str(project) else SHOP.models
        store_manifest(dagster, "shop", replace(SHOP, models=tuple(models), selections=ANSWERS))
        return load(dagster.root)


@pytest.fixture(scope="module")
def shop_job(tmp_path_factory: pytest.TempPathFactory) -> dg.JobDefinition:
    """The job of all assets of a component in the folder `shop`."""
    definitions = definitions_of(tmp_path_factory.mktemp("shop"), {"attributes": {}})
    return definitions.resolve_implicit_global_asset_job_def()


@pytest.mark.parametrize("block", DEFS_YAML)
def test_defs_yaml_in_the_documents_loads(block: str, tmp_path: Path) -> None:
    document = yaml.safe_load(block)
    component = document if "attributes" in document else {"attributes": document}
    definitions = definitions_of(tmp_path, component)
    dg.Definitions.validate_loadable(definitions)  # as `dg check defs` does
    assert len(definitions.resolve_all_asset_keys()) > 2


@pytest.mark.parametrize("block", [*RUN_CONFIG, *JSON_RUN_CONFIG])
def test_run_config_in_the_documents_is_valid(block: str, shop_job: dg.JobDefinition) -> None:
    assert dg.validate_run_config(shop_job, load_run_config_yaml(block))


def test_python_in_the_documents_loads(tmp_path: Path) -> None:
    modules = {re.sub(r"\W", "_", str(block.id)): block.values[0] for block in PYTHON_BLOCKS}
    definitions = definitions_of(tmp_path, {"attributes": {}}, **modules)
    dg.Definitions.validate_loadable(definitions)
    assert definitions.resolve_job_def("finance").asset_layer.selected_asset_keys == {dg.AssetKey(["marts", "revenue"])}


def test_other_yaml_in_the_documents_parses() -> None:
    for block in OTHER_YAML:
        assert yaml.safe_load(block.values[0]), block.id


def test_front_page_has_at_most_650_words() -> None:
    assert len(README.read_text().split()) <= 650


def test_skill_has_what_its_questions_ask_for() -> None:
    _, head, text = SKILL.read_text().split("---\n", 2)
    assert yaml.safe_load(head)["name"] == SKILL.parent.name
    for question in yaml.safe_load((SKILL.parent / "evals.yaml").read_text()):
        assert [part for part in question["answer"] if part not in text] == [], question["ask"]


def test_page_of_outcomes_lists_every_outcome() -> None:
    table = (REPOSITORY / "docs" / "outcomes.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [outcome.value for outcome in Outcome]


def test_minimum_sqlmesh_version_is_the_same_in_worker_and_pyproject() -> None:
    assert f'"sqlmesh>={SQLMESH_FLOOR}"' in (REPOSITORY / "pyproject.toml").read_text()


def texts_in(source: str) -> Iterator[str]:
    """The literal texts of a module. `...` stands for what a text inserts."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


TEXTS = {text for path in (REPOSITORY / "dg_sqlmesh_component").rglob("*.py") for text in texts_in(path.read_text())}
MESSAGES = re.findall(r'^### "(.+)"$', (REPOSITORY / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_package_has_the_message_that_troubleshooting_explains(message: str) -> None:
    parts = [part.strip() for part in message.split("...") if part.strip()]
    pattern = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
    assert any(map(pattern.search, TEXTS))


def test_metadata_page_has_every_key() -> None:
    page = (REPOSITORY / "docs" / "metadata.md").read_text()
    keys = {text for text in TEXTS if re.fullmatch("sqlmesh/[a-z_]*[a-z]", text)}
    keys |= {f"sqlmesh/models_{change.replace(' ', '_')}" for change in CHANGES}
    in_general = "sqlmesh/..."  # the page has other outcomes and properties in general
    assert {text for text in TEXTS if re.fullmatch(r"sqlmesh/\w*\.\.\.", text)} == {in_general, "sqlmesh/models_..."}
    assert {key for key in keys if f"`{key}`" not in page} == set()


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text().split("nav:")[1]
    docs = REPOSITORY / "docs"
    pages = {str(page.relative_to(docs)) for page in docs.rglob("*.md")} - {f"adr/{name}" for name in RECORDS}
    assert pages == set(re.findall(r"([\w/-]+\.md)", navigation))


def test_each_record_is_once_in_the_index_by_question() -> None:
    index = (REPOSITORY / "docs/adr/README.md").read_text().split("## Index by question")[1].split("\n## ")[0]
    titles = {name: record.split("\n")[0].split(" ", 2)[2] for name, record in RECORDS.items()}
    entries = re.findall(r"^- \[(\d{4})\]\((.+?)\) (.+)$", index, re.MULTILINE)
    assert sorted(entries) == [(name[:4], name, title) for name, title in titles.items()]
    for question, *of_question in (part.split("\n- ") for part in index.split("\n### ")[1:]):
        assert question.strip().endswith("?")
        assert of_question, question


@pytest.mark.parametrize("name", RECORDS)
def test_record_begins_with_its_decision_in_at_most_three_sentences(name: str) -> None:
    first = RECORDS[name].split("\n\n")[1]
    assert not first.startswith(("#", "-", "|", "```")), "the first paragraph says the decision and the reason"
    sentences = re.findall(r"[.?!](?= |$)", re.sub("`.*?`", "", first))
    assert 1 <= len(sentences) <= 3
    assert first.endswith(".")


@pytest.mark.parametrize("name", RECORDS)
def test_record_that_another_one_changes_links_to_it(name: str) -> None:
    def status(of: str) -> str:
        return RECORDS[of].split("## Status")[1].split("\n## ")[0]

    changes = re.findall(r"(?i)\b(?:amends|extends|supersedes) [^.]*", status(name).replace(".md", ""))
    for other in re.findall(r"\]\((\d{4}-[\w-]+)\)", " ".join(changes)):
        assert f"]({name})" in status(f"{other}.md"), f"the status of {other} names {name[:4]} in no link"
    for sentence in re.findall(r"(?i)superseded[^.]*", status(name).replace(".md", "")):
        assert re.search(r"\]\(\d{4}-", sentence), f"no successor: {sentence}"


STARTER = REPOSITORY / "templates" / "starter" / "README.md"


@pytest.mark.parametrize(
    "page",
    [*DOCUMENTS, STARTER, *sorted((REPOSITORY / "examples").glob("*/README.md"))],
    ids=lambda page: str(page.relative_to(REPOSITORY)),
)
def test_only_the_first_plan_of_a_page_may_compute_nothing(page: Path) -> None:
    """A later one would show each changed model without rows in prod."""
    commands = re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    plans = re.findall(r"^.*sqlmesh\b.* plan\b.*$", "\n".join(commands), re.MULTILINE)
    assert not any("--skip-backfill" in plan for plan in plans[1:])


def test_the_starter_leaves_rows_to_the_first_run_and_names_the_command_that_works_alongside_dbt() -> None:
    page = STARTER.read_text()
    assert re.findall(r"^    (\w+ plan.*)$", page, re.MULTILINE) == ["dg_sqlmesh plan --skip-backfill"]
    assert set(re.findall(r"\w*sqlmesh (?=plan|test|run)", page)) == {"dg_sqlmesh "}


def test_docs_are_short_outside_of_reference() -> None:
    """A page is read from its first word to its last. Reference is looked up, and so is a part "Look up ..."."""
    navigation = (REPOSITORY / "mkdocs.yml").read_text().split("nav:")[1].split("- Reference:")[0]
    pages = re.findall(r"([\w-]+\.md)", navigation)
    texts = {page: (REPOSITORY / "docs" / page).read_text().split("\n## Look up")[0] for page in pages}
    words = {page: len(text.split()) for page, text in texts.items()}
    assert {page: number for page, number in words.items() if number > 1_500} == {}
    assert sum(words.values()) <= 21_000


def test_pictures_are_shown_and_load_fast() -> None:
    shown = " ".join(document.read_text() for document in DOCUMENTS)
    for picture in (REPOSITORY / "docs/images").iterdir():
        assert f"images/{picture.name})" in shown, picture.name
        assert picture.stat().st_size <= 150 * 1024, picture.name


def headings_of(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {"-".join(re.sub(r"[^\w\s-]", "", heading).lower().split()) for heading in headings}


def test_links_between_documents_exist() -> None:
    for document in [*DOCUMENTS, REPOSITORY / "CONTRIBUTING.md"]:
        for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?", document.read_text()):
            if "://" not in target:
                page = document.parent / target if target else document
                assert page.exists(), f"{document.name}: {target}"
                assert not heading or heading in headings_of(page), f"{document.name}: {target}#{heading}"


def test_files_that_the_documents_include_exist() -> None:
    """The site builds without an error if a formatter has changed such a line."""
    for document in DOCUMENTS:
        for line in re.findall(r"^--8.*", document.read_text(), re.MULTILINE):
            included = re.fullmatch(r'--8<-- "([^:"]+)(?::\w+)?"', line)
            assert included, f"{document.name}: {line}"
            assert (REPOSITORY / included[1]).is_file(), f"{document.name}: {line}"


def test_pages_of_the_site_link_only_to_pages_of_the_site() -> None:
    """A link out of `docs` works in the repository. On the site it is broken, and Zensical accepts it."""
    docs = REPOSITORY / "docs"
    for page in docs.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).resolve().is_relative_to(docs), f"{page.name}: {target}"
