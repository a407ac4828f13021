// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { Witness } from "../../static/chat/witness.js";
import { message } from "./world.js";

/** @param {number[]} seqs of the own messages that were acked */
function witness(...seqs) {
  const one = new Witness();
  for (const seq of seqs) one.acked("c1", `own-${seq}`, seq);
  return one;
}

/** @param {number} seq */
const own = (seq) => message(seq, { client_msg_id: `own-${seq}` });

/** @param {import("../../static/chat/protocol.js").Message[]} messages */
const synced = (messages, last_seq = messages.at(-1)?.seq ?? 0) => ({ conversation_id: "c1", messages, last_seq, more: false });

test("a server that keeps its word has lost nothing", () => {
  const one = witness(2, 4);
  assert.equal(one.heard(own(2)), 0);
  assert.equal(one.heard(message(3)), 0);
  assert.equal(one.synced(synced([message(1), own(2), message(3), own(4)])), 0);
  assert.equal(one.synced(synced([message(5)])), 0);
  assert.equal(one.synced(synced([], 5)), 0);
  assert.equal(one.synced({ conversation_id: "c2", messages: [], last_seq: 0, more: false }), 0);
});

test("another message under an own number shows a loss, once", () => {
  const one = witness(2);
  assert.equal(one.heard(message(2)), 1);
  assert.equal(one.heard(message(2)), 0);
  assert.equal(witness(2).synced(synced([message(1), message(2)])), 1);
});

test("an end of the history before an own number shows a loss", () => {
  const one = witness(2, 3, 4);
  assert.equal(one.synced(synced([], 2)), 2);
  assert.equal(one.synced(synced([], 2)), 0);
});

test("an answer that passes over an own number shows a loss; one that begins later or ends sooner does not", () => {
  assert.equal(witness(2).synced(synced([message(1), message(3)])), 1);
  assert.equal(witness(2).synced(synced([message(3), message(4)])), 0);
  assert.equal(witness(5).synced({ ...synced([message(1), message(3)], 5), more: true }), 0);
});

test("only the newest acks of a conversation are kept", () => {
  const one = witness(...Array.from({ length: 150 }, (_, index) => index + 1));
  assert.equal(one.synced(synced([], 0)), 100);
});
