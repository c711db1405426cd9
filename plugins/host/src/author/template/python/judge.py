"""Drops texts with many links."""

from dataclasses import dataclass

from luthier import About, Row, Scores, Verdict, drop, keep, value


@dataclass
class Config:
    max: int = value(2, "Most links that a text may have.", least=0)


about = About(
    name="@NAME@",
    version="0.1.0",
    about="Drops texts with many links.",
    scores=["links"],
    reasons=["too-many-links"],
)


def judge(row: Row, config: Config, scores: Scores) -> Verdict:
    links = row.text.count("http://") + row.text.count("https://")
    scores["links"] = links
    return drop("too-many-links") if links > config.max else keep()
