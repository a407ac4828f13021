// @ts-check
/** What tests/simulation/client_rules.py says as well: the same steps, the same answers (tests/scenarios/*.json). */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { delayMs } from "../../static/chat/backoff.js";
import { Outbox } from "../../static/chat/outbox.js";
import { inMemory } from "../../static/chat/storage.js";
import { Timeline } from "../../static/chat/timeline.js";
import { message, settled } from "./world.js";

/** @param {string} name @returns {any[]} */
const scenarios = (name) => JSON.parse(readFileSync(new URL(`../scenarios/${name}.json`, import.meta.url), "utf8"));

for (const [number, scenario] of scenarios("timeline").entries()) {
  test(`timeline ${number}`, () => {
    const timeline = new Timeline(scenario.cursor);
    for (const step of scenario.steps) {
      assert.equal(timeline.gapDue(step.at), step.due);
      const applied =
        step.seq === undefined
          ? timeline.receiveSynced(
              { conversation_id: "c1", ...step.synced, messages: step.synced.messages.map((/** @type {number} */ seq) => message(seq)) },
              step.at,
            )
          : timeline.receive(message(step.seq), step.at);
      assert.deepEqual(applied.map(({ seq }) => seq), step.applied);
      assert.equal(timeline.cursor, step.cursor);
    }
  });
}

for (const [number, scenario] of scenarios("outbox").entries()) {
  test(`outbox ${number}`, async () => {
    const storage = inMemory();
    let made = 0;
    let now = 0;
    const opened = () =>
      new Outbox({
        storage,
        exclusively: (work) => work(),
        newId: () => `m${(made += 1)}`,
        now: () => now,
        pause: async () => {},
        onChange: () => {},
      });
    let outbox = opened();
    for (const step of scenario.steps) {
      now = step.at;
      /** @type {Record<string, [string, number | null][]>} */
      const sent = {};
      if (step.add !== undefined) await outbox.add(step.add, "hello");
      else if (step.drain !== undefined) await drained(outbox, step.drain, sent);
      else if (step.retry !== undefined) await outbox.retry(step.retry);
      else if (step.remove !== undefined) await outbox.remove(step.remove);
      else outbox = opened();
      assert.deepEqual(sent, step.sent);
      const entries = (await outbox.entries()).map((entry) => [entry.client_msg_id, entry.after_seq, entry.state]);
      assert.deepEqual(entries, step.entries);
    }
  });
}

/**
 * Until it ends, or nothing moves any more as an answer never comes.
 *
 * @param {Outbox} outbox
 * @param {{held: Record<string, number>, answers: Record<string, string[]>}} drain
 * @param {Record<string, [string, number | null][]>} sent
 */
async function drained(outbox, drain, sent) {
  const answers = structuredClone(drain.answers);
  const send = (/** @type {import("../../static/chat/outbox.js").Entry} */ entry) => {
    (sent[entry.conversation_id] ??= []).push([entry.client_msg_id, entry.after_seq]);
    const kind = answers[entry.client_msg_id]?.shift() ?? "lost";
    const outcome = /** @type {any} */ ({ kind, seq: 1, sent_at: "now", detail: "No.", afterMs: 0 });
    return kind === "never" ? new Promise(() => {}) : Promise.resolve(outcome);
  };
  void outbox.drain(send, (conversation) => drain.held[conversation] ?? 0);
  for (let turn = 0; turn < 10; turn += 1) await settled();
}

test("backoff", () => {
  for (const { attempt, random, at_least, delay } of scenarios("backoff")) {
    assert.equal(Math.round(delayMs(attempt, () => random, at_least)), delay);
  }
});
