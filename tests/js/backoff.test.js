// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { delayMs } from "../../static/chat/backoff.js";

test("waits are random between nothing and a bound that doubles up to 30 s", () => {
  const longest = [0, 1, 2, 3, 6, 7, 50].map((attempt) => delayMs(attempt, () => 1));
  assert.deepEqual(longest, [500, 1_000, 2_000, 4_000, 30_000, 30_000, 30_000]);
  assert.equal(delayMs(9, () => 0), 0);
});

test("what the server asks for is a lower bound", () => {
  assert.equal(delayMs(0, () => 0.5, 1_500), 1_500);
  assert.equal(delayMs(10, () => 0.5, 1_500), 15_000);
});
