"""Model selections of `defs.yaml` and of Python code, answered by SQLMesh's own selection language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import replace

from sqlmesh.core.context import Context
from sqlmesh.core.model import Model

from dg_sqlmesh_component.protocol.errors import ConfigurationError, ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import did_you_mean, listed
from dg_sqlmesh_component.protocol.manifest import AnsweredSelection
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.sqlmesh_internals import selector_of


def selected_models(
    context: Context, own: Set[str], select: tuple[str, ...], exclude: tuple[str, ...], asked_by: str
) -> tuple[str, ...]:
    """The selected models of this project, by fqn, in alphabetical order.

    Args:
        own: Models and standalone audits in the project's own files.
        asked_by: Where the selection is written, for error messages.

    Raises:
        ConfigurationError: A selection is wrong, matches no model, or leaves no model that SQLMesh executes.
        ProjectLoadError: SQLMesh executes no model of the project.
    """
    models = own & context.models.keys()
    chosen = models & expanded(context, f"`select` in {asked_by}", select) if select else models
    if exclude:
        chosen = chosen - expanded(context, f"`exclude` in {asked_by}", exclude)
    if all(context.models[fqn].kind.is_symbolic for fqn in chosen):
        if select or exclude:
            raise ConfigurationError(
                f"`select` and `exclude` in {asked_by} leave no model of this project that SQLMesh executes "
                "(external and embedded models are not executed). Correct the selections."
            )
        if models:  # a new project without models is no error
            names = listed(sorted(context.models[fqn].name for fqn in models), 10)
            raise ProjectLoadError(
                f"No model of the SQLMesh project at {', '.join(map(str, context.configs))} becomes an asset. SQLMesh "
                f"executes none of them (all are external or embedded): {names}. Add a model of "
                "another kind, or remove the component from defs.yaml."
            )
    return tuple(sorted(chosen))


def answer_again(
    context: Context, own: Set[str], selections: Iterable[AnsweredSelection]
) -> Iterator[AnsweredSelection]:
    """The selections with their models of today, without those that have become errors."""
    for selection in selections:
        try:
            models = selected_models(context, own, selection.select, selection.exclude, "")
        except ConfigurationError:
            continue  # the next call with this selection raises the error
        yield replace(selection, models=models)


def expanded(
    context: Context, origin: str, selections: tuple[str, ...], removed: Mapping[str, Model] | None = None
) -> set[str]:
    """The models that fit a selection, by fqn.

    Args:
        origin: Where the selection is written, for error messages.
        removed: Models that are not in the files and may be selected too.

    Raises:
        ConfigurationError: A selection is wrong, or matches no model.
    """
    known_models = {**(removed or {}), **context.models}
    selector = selector_of(context)
    chosen: set[str] = set()
    for selection in selections:
        try:
            matched = selector.expand_model_selections([selection], models=known_models)
        except Exception as error:  # the parser's, git's for `git:`, and whatever else SQLMesh raises
            raise ConfigurationError(
                f"{origin} is not a SQLMesh model selection: {selection!r}. "
                f"{describe_error(error)} Examples: my_schema.my_model, my_schema.*, tag:finance, +my_schema.my_model."
            ) from error
        if not matched:
            models = known_models.values()
            tags = {f"tag:{tag}" for model in models for tag in model.tags}
            known = tags if "tag:" in selection else {model.name for model in models}
            advice = did_you_mean(selection, known) or " No model has a tag."
            raise ConfigurationError(f"{origin} matches no model: {selection!r}.{advice}")
        chosen |= matched
    return chosen
