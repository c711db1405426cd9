// What a Luthier filter written in JavaScript is made of.
//
// `judge.js` exports `about` and `judge(row, config, scores)`; `row.text` is the judged column, `row.columns` those named
// in `about.reads`. A filter sees the columns it is handed and nothing else: there is no file, network, clock or
// randomness. Equal rows must get equal verdicts, whatever came before. An exception is an error that names the row.

export const keep = () => ({ kind: "keep" });
export const drop = (reason) => ({ kind: "drop", text: reason });
// Keeps the row with this text in place of the judged column; needs `edits: true` in `about`.
export const edit = (text) => ({ kind: "edit", text });
// The row cannot be judged: an error that names it.
export const refuse = (why) => ({ kind: "refuse", text: why });

// JSON Schema of the configuration; a property without default must be given.
export function schemaOf(about) {
  const properties = about.config ?? {};
  const required = Object.keys(properties).filter((key) => !("default" in properties[key]));
  return { type: "object", properties, required, additionalProperties: false };
}

// The configuration with its defaults.
export function configured(about, config) {
  const defaults = Object.entries(about.config ?? {}).map(([key, schema]) => [key, schema.default]);
  return { ...Object.fromEntries(defaults), ...config };
}

// What `plugin.judge` says about one row, for tests: the verdict as text, and the scores.
export function judged(plugin, config, text, columns = {}) {
  const scores = {};
  const verdict = plugin.judge({ text, columns }, configured(plugin.about, config), scores);
  return [verdict.text ? `${verdict.kind}: ${verdict.text}` : verdict.kind, scores];
}
