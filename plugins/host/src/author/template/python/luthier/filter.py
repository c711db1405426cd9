"""The world's session: a batch in columns in, verdicts in columns out. Nothing here needs editing."""

from array import array

import judge
from componentize_py_types import Err
from luthier import Row, configured
from wit_world.imports.types import Edits, OpenError_Other, Refusal, Verdicts


def _what_happened(error: BaseException) -> str:
    # Not by `traceback`, which would look for the source files.
    place, frame = "", error.__traceback__
    while frame:
        place = f" at {frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno}"
        frame = frame.tb_next
    return f"{type(error).__name__}{place}: {error}"


class Session:
    def __init__(self, config):
        self.config = config

    @classmethod
    def open(cls, config):
        try:
            return cls(configured(judge, config))
        except Exception as error:
            raise Err(OpenError_Other(_what_happened(error))) from None

    def process(self, rows, texts, reads):
        about, config, judge_row = judge.about, self.config, judge.judge
        reasons = {reason: 1 + index for index, reason in enumerate(about.reasons)}
        known = set(about.scores)
        drop = bytearray(rows)
        scores = [array("f", bytes(4 * rows)) for _ in about.scores]
        edited, offsets, data, refusals = array("I"), array("I", [0]), bytearray(), []
        columns = [(name, column.data, array("I", column.offsets)) for name, column in zip(about.reads, reads)]
        text_data, text_offsets = texts.data, array("I", texts.offsets)
        for row in range(rows):
            row_scores = {}
            try:
                text = text_data[text_offsets[row] : text_offsets[row + 1]].decode()
                further = {name: values[at[row] : at[row + 1]].decode() for name, values, at in columns}
                verdict = judge_row(Row(text, further), config, row_scores)
                for name, column in zip(about.scores, scores):
                    column[row] = float(row_scores.get(name, 0.0))
                if not row_scores.keys() <= known:
                    raise ValueError(f"{sorted(row_scores.keys() - known)} not in scores = {about.scores}")
                if verdict.kind == "drop":
                    if verdict.text not in reasons:
                        raise ValueError(f"{verdict.text!r} is not in reasons = {about.reasons}")
                    drop[row] = reasons[verdict.text]
                elif verdict.kind == "edit":
                    data += verdict.text.encode()
                    edited.append(row)
                    offsets.append(len(data))
                elif verdict.kind == "refuse":
                    refusals.append(Refusal(row, verdict.text))
            except Exception as error:
                refusals.append(Refusal(row, _what_happened(error)))
        edits = Edits(edited.tobytes(), offsets.tobytes(), bytes(data)) if edited else None
        return Verdicts(bytes(drop), b"".join(scores), edits, refusals)
