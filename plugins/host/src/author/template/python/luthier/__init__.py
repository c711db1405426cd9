"""What a Luthier filter written in Python is made of.

`judge.py` has `about`, a dataclass `Config`, and `judge(row, config, scores)`. A filter sees the columns it is handed and
nothing else: there is no file, network or clock, and the seed of `random` is a constant. Equal rows must get equal
verdicts, whatever came before. An exception is an error that names the row.
"""

import dataclasses
import json
import typing
from dataclasses import dataclass, field

__all__ = ["About", "Row", "Scores", "Verdict", "drop", "edit", "judged", "keep", "refuse", "value"]

Scores = dict[str, float]


@dataclass
class About:
    """What the plugin says about itself."""

    name: str
    version: str
    about: str
    # The column to judge when the pipeline does not say; empty for the text of the dataset.
    text: str = ""
    # Further columns for `row.columns`.
    reads: list[str] = field(default_factory=list)
    # What `scores[…]` sets; what it does not set is 0.
    scores: list[str] = field(default_factory=list)
    # Every reason that `drop` gives.
    reasons: list[str] = field(default_factory=list)
    # `judge` returns `edit(…)`.
    edits: bool = False


class Row(typing.NamedTuple):
    text: str
    columns: dict[str, str]


class Verdict(typing.NamedTuple):
    kind: str
    text: str = ""


def keep() -> Verdict:
    return Verdict("keep")


def drop(reason: str) -> Verdict:
    return Verdict("drop", reason)


def edit(text: str) -> Verdict:
    """Keeps the row with this text in place of the judged column."""
    return Verdict("edit", text)


def refuse(why: str) -> Verdict:
    """The row cannot be judged: an error that names it."""
    return Verdict("refuse", why)


def value(default, about: str, least=None, most=None):
    """A field of `Config` with its description and bounds, which Luthier checks before the first row."""
    bounds = {"description": about, "minimum": least, "maximum": most}
    metadata = {key: bound for key, bound in bounds.items() if bound is not None}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def schema_of(config: type) -> dict:
    """JSON Schema of a dataclass with fields of `int`, `float`, `bool`, `str` and lists of these."""
    properties, required = {}, []
    for item in dataclasses.fields(config):
        kind = typing.get_type_hints(config)[item.name]
        if typing.get_origin(kind) is list:
            schema = {"type": "array", "items": {"type": _TYPES[typing.get_args(kind)[0]]}}
        else:
            schema = {"type": _TYPES[kind]}
        schema.update(item.metadata)
        if item.default is not dataclasses.MISSING:
            schema["default"] = item.default
        elif item.default_factory is not dataclasses.MISSING:
            schema["default"] = item.default_factory()
        else:
            required.append(item.name)
        properties[item.name] = schema
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def configured(module, text: str):
    """The configuration of `module` from JSON that fits its schema."""
    config = getattr(module, "Config", None)
    return config(**json.loads(text)) if config else None


def judged(module, config: dict, text: str, columns: dict[str, str] | None = None) -> tuple[str, Scores]:
    """What `module.judge` says about one row, for tests: the verdict as text, and the scores."""
    scores = {}
    verdict = module.judge(Row(text, columns or {}), configured(module, json.dumps(config)), scores)
    return (f"{verdict.kind}: {verdict.text}" if verdict.text else verdict.kind), scores
