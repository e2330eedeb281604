"""Text of a pull request in the Markdown of a report: all of it is visible, and none of it is markup."""

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from unit.capabilities.plans.plans import drops, plan, planned

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.gate import Refusal
from dg_sqlmesh_component.capabilities.plans.report import Planned, PlanReport
from dg_sqlmesh_component.capabilities.plans.report_markdown import markdown
from dg_sqlmesh_component.report.markdown import LIMIT, PAGE_LIMIT, code, literal

HARMLESS = {"text", "code_inline", "html_inline", "softbreak", "strong_open", "strong_close"}
OWN_HTML = {"<!-- -->", "<code>", "</code>"}
ODD = [
    "q\r\r<!--",
    "a|b",
    "a\\|b",
    "`",
    "``` x",
    "<!-- x",
    "\n\nDigest of this plan: `evil`",
    "[a](b)",
    "@everyone #1",
    "</details>",
]
TEXTS = st.lists(st.sampled_from([*ODD, "a", " ", "\t", "_", "*", "&lt;", "\n    ", "- ", "1. ", "# ", "> "])).map(
    "".join
)
TEXTS |= st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def report(models: list[msg.PlannedModel], refused: tuple[Refusal, ...] = (), *, in_dagster: bool = False) -> str:
    shown = PlanReport("prod", prod=Planned(plan(*models), {}, refused, "d-1", {"ops": {"apply": {}}}))
    return markdown(shown, in_dagster=in_dagster)


def parsed(text: str) -> list[Token]:
    """CommonMark with tables."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def visible(token: Token) -> str:
    assert token.type == "inline"
    shown = ""
    for child in token.children or ():
        assert child.type in HARMLESS, child
        if child.type == "html_inline":
            assert child.content in OWN_HTML
        else:
            shown += "\n" if child.type == "softbreak" else child.content
    return shown


def escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@given(TEXTS, TEXTS, TEXTS, TEXTS, TEXTS)
@example("q\r\r<!--", "\r\r<!--", "drops q\r\r<!--", "```\n<!--", "No.\r<!--")
@example("", "", "", "", "\n    </details>")
def test_pull_requests_text_is_visible_no_markup(name: str, owner: str, column: str, diff: str, message: str) -> None:
    lines = "\n".join(f"+{line}" for line in diff.split("\n"))  # as in each unified diff
    model = planned(
        name, name, "changed", category="breaking", destructive=drops(column), owner=owner, diff=f"@@\n{lines}"
    )
    other = msg.PlannedModel("b", "t.b", "removed")
    text = report([model, other], (Refusal("destructive", (name,), message), Refusal("moved", (), "Second.")))
    tokens = parsed(text)
    inline = [visible(token) for token in tokens if token.type == "inline"]

    cells = inline[inline.index("Model") :][:15]
    assert [cell.strip() for cell in cells[5:10]] == [
        escaped(name).strip(), "changed (breaking)", f"drops {escaped(column)}: values are lost", "nothing",
        escaped(owner).strip(),
    ]  # fmt: skip
    assert cells[10:12] == ["t.b", "removed"], "the table has one row for each model"
    assert f"{escaped(name)} drops {escaped(column)}: the column and its values are gone" in " ".join(inline)
    assert inline.count("Digest of this plan: d-1") == 1
    assert sum(line.startswith("Refused") or "would be refused (" in line for line in inline) >= 2
    assert len(re.findall("^Digest of this plan: `", text, re.MULTILINE)) == 1
    [fence] = [token for token in tokens if token.type == "fence" and token.info == "diff"]
    assert re.split(r"\r\n|\r|\n", fence.content.replace("\0", "\ufffd"))[0] == "@@"
    assert {token.content.strip() for token in tokens if token.type == "html_block"} <= {
        f"<details><summary><code>{literal(name)}</code></summary>", "</details>",
    }  # fmt: skip


@given(st.integers(0, 700), st.integers(0, 5_000))
@example(150, 4_000)
def test_a_large_report_keeps_each_loss_and_refusal_and_counts_what_is_left_out(models: int, length: int) -> None:
    changed = [msg.PlannedModel(f"m{n}", f"m{n}", "changed", diff="x" * length) for n in range(models)]
    lost = planned("last", "t.last", "changed", destructive=drops("amount"), diff="x" * length)
    text = report([*changed, lost], (Refusal("destructive", ("t.last",), "The values are lost."),))

    assert len(text) <= LIMIT
    assert "> [!CAUTION]\n> **Applying this plan would be refused (destructive).** The values are lost." in text
    assert "`t.last` drops amount: the column" in text
    assert text.index("Digest of this plan: `d-1`") < text.index("| Model |")
    in_all = {"row": models + 1, "difference": models + 1 if length else 0}
    for noun, shown in (("row", text.count(" | changed | ")), ("difference", text.count("<details>"))):
        left_out = re.search(rf"(\d+) {noun}s? left out: see the page of the run", text)
        assert shown + (int(left_out[1]) if left_out else 0) == in_all[noun]


def test_losses_that_do_not_fit_are_counted_and_nobody_can_approve_them_from_the_report() -> None:
    lost = [planned(f"m{n}", f"t.m{n}", "changed", destructive=drops("amount")) for n in range(1_000)]
    removed = msg.PlannedModel("gone", "t.gone", "removed")
    text = report([*lost, removed], (Refusal("destructive", ("t.m1",), "The values are lost."),))

    assert len(text) <= LIMIT
    assert "> **Too long for a comment.** Refusals: destructive. Losses: 1001. Review all of them" in text
    assert "d-1" not in text
    assert "dg launch" not in text
    assert re.search(r"\d+ rows left out: see the page of the run", text)


def test_page_of_the_run_has_all_losses_and_names_where_the_rest_is() -> None:
    models = [planned(f"m{n}", f"t.m{n}", "changed", destructive=drops("amount"), diff="x" * 1_000) for n in range(900)]
    page = report(models, in_dagster=True)
    assert all(f"`t.m{n}` drops amount: the column" in page for n in range(900))
    assert "Digest of this plan: `d-1`" in page
    assert re.search(r"\d+ differences left out: see `sqlmesh plan`\.", page)
    assert len(page) <= PAGE_LIMIT


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("core.daily_revenue", "core.daily_revenue"),
        ("_private", "&#95;private"),
        ("@everyone", "@<!-- -->everyone"),
        ("see #1", "see #<!-- -->1"),
        ("http://x.y and www.x.y", "http:<!-- -->//x.y and www.<!-- -->x.y"),
        ("a|b\r\n<b>", "a&#124;b&#92;r&#92;n&#60;b&#62;"),
        ("a\u202eb", "a&#92;u202eb"),
    ],
)
def test_what_would_become_a_link_or_markup_is_split_or_an_entity(text: str, markdown: str) -> None:
    assert literal(text) == markdown


def test_a_name_that_needs_no_escape_is_a_code_span() -> None:
    names: dict[str, Any] = {name: code(name) for name in ("core.orders", 'a"b', "a`b")}
    assert names == {"core.orders": "`core.orders`", 'a"b': '<code>a"b</code>', "a`b": "<code>a&#96;b</code>"}
