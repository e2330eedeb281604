"""Run config and parts of `defs.yaml` as YAML, for a person to paste."""

import re
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Quotes each text that a reader of YAML might take for a number, a date or a time.

    PyYAML implements YAML 1.1, which reads `12e4` as text, and writes it without quotes. In YAML 1.2, as editors and
    web pages read it, that is a number.
    """

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # nobody expects `&id001` in a run config
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if re.match("[A-Za-z_]", text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def yaml_block(value: Any) -> str:
    """A value over several lines, without a line break at its end."""
    return _dumped(value, default_flow_style=False)


def yaml_line(value: Any) -> str:
    """A value on one line: `{start: '2026-01-01', tables: [raw.orders]}`. A mapping or list has its braces."""
    return _dumped(value, default_flow_style=True)


def _dumped(value: Any, **style: Any) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"), **style)
    return text.removesuffix("...\n").rstrip("\n")
