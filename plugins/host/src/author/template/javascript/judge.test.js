import assert from "node:assert/strict";
import { test } from "node:test";

import * as plugin from "./judge.js";
import { judged } from "./luthier/index.js";

test("counts links", () => {
  const text = "see https://a and http://b";
  assert.deepEqual(judged(plugin, {}, text), ["keep", { links: 2 }]);
  assert.deepEqual(judged(plugin, { max: 1 }, text), ["drop: too-many-links", { links: 2 }]);
  assert.deepEqual(judged(plugin, {}, "none"), ["keep", { links: 0 }]);
});
