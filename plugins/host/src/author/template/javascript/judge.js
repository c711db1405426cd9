import { drop, keep } from "./luthier/index.js";

export const about = {
  name: "@NAME@",
  version: "0.1.0",
  about: "Drops texts with many links.",
  scores: ["links"],
  reasons: ["too-many-links"],
  // JSON Schema: Luthier checks every pipeline against it before the first row and `config` has its defaults.
  config: {
    max: { type: "integer", minimum: 0, default: 2, description: "Most links that a text may have." },
  },
};

export function judge(row, config, scores) {
  const links = row.text.split("http://").length + row.text.split("https://").length - 2;
  scores.links = links;
  return links > config.max ? drop("too-many-links") : keep();
}
