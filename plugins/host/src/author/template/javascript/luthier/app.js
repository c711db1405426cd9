// The world's functions: a batch in columns in, verdicts in columns out. Nothing here needs editing.
import { about, judge } from "../judge.js";
import { configured, schemaOf } from "./index.js";

const decoder = new TextDecoder();
const encoder = new TextEncoder();
const names = (list) => list ?? [];

function whatHappened(error) {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

function textOf(column, row) {
  return decoder.decode(column.data.subarray(column.offsets[row], column.offsets[row + 1]));
}

class Session {
  constructor(config) {
    this.config = config;
  }

  static open(config) {
    return new Session(configured(about, JSON.parse(config)));
  }

  process(rows, texts, reads) {
    const reasons = names(about.reasons);
    const scoreNames = names(about.scores);
    const readNames = names(about.reads);
    const drop = new Uint8Array(rows);
    const scores = new Float32Array(rows * scoreNames.length);
    const edited = [];
    const pieces = [];
    const offsets = [0];
    const refusals = [];
    for (let row = 0; row < rows; row++) {
      try {
        const columns = {};
        readNames.forEach((name, index) => (columns[name] = textOf(reads[index], row)));
        const found = {};
        const verdict = judge({ text: textOf(texts, row), columns }, this.config, found);
        for (const name of Object.keys(found)) {
          const at = scoreNames.indexOf(name);
          if (at < 0) throw new Error(`\`${name}\` is not in scores = ${JSON.stringify(scoreNames)}`);
          scores[at * rows + row] = found[name];
        }
        if (verdict.kind === "drop") {
          const at = reasons.indexOf(verdict.text);
          if (at < 0) throw new Error(`\`${verdict.text}\` is not in reasons = ${JSON.stringify(reasons)}`);
          drop[row] = 1 + at;
        } else if (verdict.kind === "edit") {
          const bytes = encoder.encode(verdict.text);
          pieces.push(bytes);
          edited.push(row);
          offsets.push(offsets[offsets.length - 1] + bytes.length);
        } else if (verdict.kind === "refuse") {
          refusals.push({ row, why: verdict.text });
        }
      } catch (error) {
        refusals.push({ row, why: whatHappened(error) });
      }
    }
    const data = new Uint8Array(offsets[offsets.length - 1]);
    pieces.forEach((bytes, index) => data.set(bytes, offsets[index]));
    const edits = { rows: Uint32Array.from(edited), offsets: Uint32Array.from(offsets), data };
    return { drop, scores, edits: edited.length > 0 ? edits : undefined, refusals };
  }
}

export const filter = {
  describe() {
    return {
      name: about.name,
      version: about.version,
      about: about.about,
      text: about.text ?? "",
      reads: names(about.reads),
      scores: names(about.scores).map((name) => ({ name, kind: "real" })),
      reasons: names(about.reasons),
      editsText: about.edits ?? false,
      configSchema: JSON.stringify(schemaOf(about)),
    };
  },
  Session,
};
