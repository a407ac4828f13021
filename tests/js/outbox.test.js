// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { Outbox } from "../../static/chat/outbox.js";
import { inMemory } from "../../static/chat/storage.js";
import { seeded, settled } from "./world.js";

/** @typedef {import("../../static/chat/outbox.js").Outcome} Outcome */
/** @typedef {import("../../static/chat/outbox.js").Entry} Entry */

/** One tab after another: what navigator.locks does. */
function oneLock() {
  let last = Promise.resolve();
  return (/** @type {() => Promise<void>} */ work) => {
    last = last.then(work, work);
    return last;
  };
}

let made = 0;

/** @param {{storage?: any, exclusively?: any, time?: number}} [shared] what several tabs have in common */
function outbox({ storage = inMemory(), exclusively = oneLock(), time = 1_000 } = {}) {
  /** @type {import("../../static/chat/outbox.js").Change[]} */
  const changes = [];
  const box = new Outbox({
    storage,
    exclusively,
    newId: () => `id-${(made += 1)}`,
    now: () => time,
    pause: async () => {},
    onChange: (change) => changes.push(change),
  });
  return { box, changes, storage, exclusively };
}

const cursor = () => 7;

/** A server that numbers what it has not seen. */
function server() {
  /** @type {Entry[]} */
  const log = [];
  /** @type {Entry[]} */
  const tries = [];
  const send = async (/** @type {Entry} */ entry) => {
    tries.push(entry);
    await Promise.resolve();
    if (!log.some((known) => known.client_msg_id === entry.client_msg_id)) log.push(entry);
    const seq = 1 + log.findIndex((known) => known.client_msg_id === entry.client_msg_id);
    return /** @type {Outcome} */ ({ kind: "ack", seq, sent_at: "now" });
  };
  return { log, tries, send };
}

test("a message is shown before it is written, and gone after its ack", async () => {
  const { box, changes, storage } = outbox();
  const shown = /** @type {Entry[]} */ ([]);
  const adding = box.add("c1", "hello", (entry) => shown.push(entry));
  assert.equal(shown[0]?.content, "hello");
  await adding;
  await box.drain(server().send, cursor);
  assert.deepEqual(changes.map(({ now }) => now), ["pending", "sent"]);
  assert.deepEqual(await storage.all(), []);
});

test("messages go out oldest first, one in flight per conversation", async () => {
  const { box } = outbox();
  for (const text of ["1", "2", "3"]) await box.add("c1", text);
  await box.add("c2", "other");
  let flying = 0;
  const order = /** @type {string[]} */ ([]);
  await box.drain(async (entry) => {
    if (entry.conversation_id === "c1") {
      flying += 1;
      assert.equal(flying, 1);
      order.push(entry.content);
      await settled();
      flying -= 1;
    }
    return { kind: "ack", seq: 1, sent_at: "now" };
  }, cursor);
  assert.deepEqual(order, ["1", "2", "3"]);
});

test("a first try has no after_seq; a retry has the one from the first try", async () => {
  const { box } = outbox();
  await box.add("c1", "hello");
  const { tries, send } = server();
  await box.drain(async (entry) => (tries.push(entry), { kind: "lost" }), () => 7);
  await box.drain(send, () => 99);
  assert.deepEqual(tries.map((entry) => entry.after_seq), [null, 7]);
});

test("what the tab before this one tried is a retry too", async () => {
  const { box, storage } = outbox();
  await box.add("c1", "hello");
  void box.drain(() => new Promise(() => {}), () => 7); // the tab dies with it in flight
  await settled();
  const { tries, send } = server();
  await outbox({ storage }).box.drain(send, () => 99);
  assert.deepEqual(tries.map((entry) => entry.after_seq), [7]);
});

test("a lost connection keeps everything for the next one", async () => {
  const { box } = outbox();
  await box.add("c1", "1");
  await box.add("c1", "2");
  await box.drain(async () => ({ kind: "lost" }), cursor);
  assert.deepEqual((await box.entries()).map(({ state }) => state), ["pending", "pending"]);
  const { log, send } = server();
  await box.drain(send, cursor);
  assert.deepEqual(log.map(({ content }) => content), ["1", "2"]);
});

test("a refused message fails and says why, and does not hold up the next", async () => {
  const { box } = outbox();
  await box.add("c1", "bad");
  await box.add("c1", "good");
  const { log, send } = server();
  const refuse = async (/** @type {Entry} */ entry) =>
    entry.content === "bad" ? /** @type {Outcome} */ ({ kind: "refused", detail: "No." }) : send(entry);
  await box.drain(refuse, cursor);
  assert.deepEqual(log.map(({ content }) => content), ["good"]);
  assert.deepEqual((await box.entries()).map(({ state, detail }) => [state, detail]), [["failed", "No."]]);
});

test("a failed message can be tried again under the same id, or deleted", async () => {
  const { box } = outbox();
  const one = await box.add("c1", "one");
  const two = await box.add("c1", "two");
  await box.drain(async () => ({ kind: "refused", detail: "No." }), cursor);
  await box.retry(one.client_msg_id);
  await box.remove(two.client_msg_id);
  const { log, send } = server();
  await box.drain(send, cursor);
  assert.deepEqual(log.map((entry) => entry.client_msg_id), [one.client_msg_id]);
  assert.deepEqual(await box.entries(), []);
});

test("a message that is put off is sent again, before the ones after it", async () => {
  const { box } = outbox();
  await box.add("c1", "1");
  await box.add("c1", "2");
  const { log, send, tries } = server();
  let busy = 2;
  await box.drain(async (entry) => ((busy -= 1) >= 0 ? { kind: "later", afterMs: 5 } : send(entry)), cursor);
  assert.deepEqual(log.map(({ content }) => content), ["1", "2"]);
  assert.equal(tries[0]?.after_seq, 7);
});

test("a message deleted while it waits is not sent", async () => {
  const { box } = outbox();
  const one = await box.add("c1", "1");
  const two = await box.add("c1", "2");
  const { log, send } = server();
  await box.drain(async (entry) => {
    if (entry.client_msg_id === one.client_msg_id) await box.remove(two.client_msg_id);
    return send(entry);
  }, cursor);
  assert.deepEqual(log.map(({ content }) => content), ["1"]);
});

test("what is written while the outbox is drained goes out too", async () => {
  const { box } = outbox();
  await box.add("c1", "1");
  const { log, send } = server();
  let more = true;
  await box.drain(async (entry) => {
    if (more) {
      more = false;
      await box.add("c2", "2");
      void box.drain(send, cursor);
    }
    return send(entry);
  }, cursor);
  assert.deepEqual(log.map(({ content }) => content), ["1", "2"]);
});

test("two tabs send each message once", async () => {
  const one = outbox();
  const two = outbox({ storage: one.storage, exclusively: one.exclusively });
  await one.box.add("c1", "from one");
  await two.box.add("c1", "from two");
  const { tries, send } = server();
  await Promise.all([one.box.drain(send, cursor), two.box.drain(send, cursor)]);
  assert.deepEqual(tries.map(({ content }) => content).sort(), ["from one", "from two"]);
});

test("whatever the network does, everything is stored once and in the order it was written", async () => {
  for (let seed = 1; seed <= 200; seed += 1) {
    const random = seeded(seed);
    const { storage, exclusively } = outbox();
    const tabs = [outbox({ storage, exclusively }), outbox({ storage, exclusively })];
    const { log, send } = server();
    const written = /** @type {string[]} */ ([]);
    let clock = 0;
    const unreliable = async (/** @type {Entry} */ entry) => {
      const luck = random();
      if (luck < 0.2) return /** @type {Outcome} */ ({ kind: "lost" }); // the frame is lost
      const outcome = await send(entry);
      if (luck < 0.4) return /** @type {Outcome} */ ({ kind: "lost" }); // the answer is lost
      if (luck < 0.5) return /** @type {Outcome} */ ({ kind: "later", afterMs: 1 });
      return outcome;
    };
    for (let step = 0; step < 20; step += 1) {
      const tab = /** @type {ReturnType<typeof outbox>} */ (tabs[Math.floor(random() * 2)]);
      clock += 1;
      const at = clock * 1_000 + 1_000;
      tab.box.world.now = () => at;
      if (random() < 0.6) written.push((await tab.box.add("c1", `${step}`)).content);
      else await tab.box.drain(unreliable, cursor);
    }
    await tabs[0]?.box.drain(send, cursor);
    assert.deepEqual(log.map(({ content }) => content), written, `seed ${seed}`);
    assert.deepEqual(await storage.all(), [], `seed ${seed}`);
  }
});
