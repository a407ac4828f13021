// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { GAP_MS, Timeline } from "../../static/chat/timeline.js";
import { message, seeded, shuffled } from "./world.js";

/** @param {import("../../static/chat/protocol.js").Message[]} messages */
const seqs = (messages) => messages.map(({ seq }) => seq);

test("the next message is applied, an old one dropped", () => {
  const timeline = new Timeline(4);
  assert.deepEqual(seqs(timeline.receive(message(5), 0)), [5]);
  assert.deepEqual(timeline.receive(message(5), 0), []);
  assert.deepEqual(timeline.receive(message(2), 0), []);
  assert.equal(timeline.cursor, 5);
});

test("what is ahead waits for what is missing", () => {
  const timeline = new Timeline(0);
  assert.deepEqual(timeline.receive(message(3), 0), []);
  assert.deepEqual(timeline.receive(message(2), 10), []);
  assert.deepEqual(seqs(timeline.receive(message(1), 20)), [1, 2, 3]);
  assert.equal(timeline.gapSince, null);
});

test("a gap is due for a sync after 300 ms, counted anew when something moves", () => {
  const timeline = new Timeline(0);
  timeline.receive(message(3), 1_000);
  assert.equal(timeline.gapDue(1_000 + GAP_MS - 1), false);
  assert.equal(timeline.gapDue(1_000 + GAP_MS), true);
  timeline.receive(message(1), 1_200);
  assert.equal(timeline.gapDue(1_000 + GAP_MS), false);
  assert.equal(timeline.gapDue(1_200 + GAP_MS), true);
});

test("a sync fills the gap and lets go what was held", () => {
  const timeline = new Timeline(1);
  timeline.receive(message(4), 0);
  const synced = { conversation_id: "c1", messages: [message(2), message(3), message(4)], last_seq: 4, more: false };
  assert.deepEqual(seqs(timeline.receiveSynced(synced, 5)), [2, 3, 4]);
  assert.equal(timeline.held.size, 0);
});

test("a member who came back later starts where the server lets them", () => {
  const timeline = new Timeline(3);
  timeline.receive(message(11), 0);
  const synced = { conversation_id: "c1", messages: [message(9), message(10)], last_seq: 11, more: true };
  assert.deepEqual(seqs(timeline.receiveSynced(synced, 0)), [9, 10, 11]);
});

test("when there is nothing to see up to the end, the cursor goes there", () => {
  const timeline = new Timeline(3);
  assert.deepEqual(timeline.receiveSynced({ conversation_id: "c1", messages: [], last_seq: 8, more: false }, 0), []);
  assert.deepEqual(seqs(timeline.receive(message(9), 0)), [9]);
});

test("an empty answer that says `more` moves nothing", () => {
  const timeline = new Timeline(3);
  timeline.receiveSynced({ conversation_id: "c1", messages: [], last_seq: 8, more: true }, 0);
  assert.equal(timeline.cursor, 3);
});

test("what is held is bounded", () => {
  const timeline = new Timeline(0);
  for (let seq = 2; seq < 3_000; seq += 1) timeline.receive(message(seq), 0);
  assert.equal(timeline.held.size, 1_000);
  assert.equal(timeline.receive(message(1), 0).length, 1_001);
});

test("old state + events == fresh state, whatever is lost, doubled or late", () => {
  for (let seed = 1; seed <= 300; seed += 1) {
    const random = seeded(seed);
    const log = Array.from({ length: 60 }, (_, index) => message(index + 1));
    const start = Math.floor(random() * 60);
    const timeline = new Timeline(start);
    const arriving = shuffled(
      log.flatMap((each) => (random() < 0.3 ? [] : random() < 0.2 ? [each, each] : [each])),
      random,
    );
    const seen = [];
    for (const each of arriving) {
      seen.push(...timeline.receive(each, 0));
      if (random() < 0.1) seen.push(...timeline.receiveSynced(answerOf(log, timeline.cursor, random), 0));
    }
    for (let more = true; more; ) {
      const answer = answerOf(log, timeline.cursor, random);
      seen.push(...timeline.receiveSynced(answer, 0));
      more = answer.more;
    }
    assert.deepEqual(seen, log.slice(start), `seed ${seed}`);
  }
});

/**
 * What the server says to a sync; at times only a part of it.
 *
 * @param {import("../../static/chat/protocol.js").Message[]} log
 * @param {number} cursor
 * @param {() => number} random
 */
function answerOf(log, cursor, random) {
  const messages = log.slice(cursor, cursor + 1 + Math.floor(random() * 20));
  return { conversation_id: "c1", messages, last_seq: log.length, more: cursor + messages.length < log.length };
}
