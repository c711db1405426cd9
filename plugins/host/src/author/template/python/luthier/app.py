"""The world's functions. Nothing here needs editing."""

import json

import judge
from luthier import schema_of
from wit_world.imports.types import Manifest, Score, ScoreKind


class Filter:
    def describe(self) -> Manifest:
        about = judge.about
        config = getattr(judge, "Config", None)
        schema = schema_of(config) if config else {"type": "object", "additionalProperties": False}
        scores = [Score(name, ScoreKind.REAL) for name in about.scores]
        return Manifest(
            about.name,
            about.version,
            about.about,
            about.text,
            about.reads,
            scores,
            about.reasons,
            about.edits,
            json.dumps(schema),
        )
