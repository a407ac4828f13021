// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { Connection } from "../../static/chat/connection.js";
import { Outbox } from "../../static/chat/outbox.js";
import { Session } from "../../static/chat/session.js";
import { inMemory } from "../../static/chat/storage.js";
import { ADA, BOB, FakeClock, FakeSocket, HELLO, message, seeded, settled } from "./world.js";

/**
 * A browser tab without a page: all pure parts together.
 *
 * @param {{storage?: any, random?: () => number, newSocket?: () => FakeSocket}} [given]
 */
function tab({ storage = inMemory(), random = () => 0.5, newSocket = () => new FakeSocket() } = {}) {
  const clock = new FakeClock();
  /** @type {FakeSocket[]} */
  const sockets = [];
  /** @type {string[]} */
  const calls = [];
  /** @type {import("../../static/chat/protocol.js").Message[]} */
  const shown = [];
  let ids = 0;
  const outbox = new Outbox({
    storage,
    exclusively: (work) => work(),
    newId: () => `own-${(ids += 1)}`,
    now: clock.now,
    pause: (ms) => new Promise((resolve) => void clock.setTimeout(() => resolve(undefined), ms)),
    onChange: ({ entry, now }) => void calls.push(`${now} ${entry.content}`),
  });
  /** @type {Session} */
  let session;
  const connection = new Connection({
    openSocket: () => (sockets.push(newSocket()), /** @type {FakeSocket} */ (sockets.at(-1))),
    clock,
    random,
    isOnline: () => true,
    isLoggedIn: async () => true,
    isUsed: () => true,
    onEvent: (event) => session.receive(event),
    onState: (state) => session.stateChanged(state),
  });
  session = new Session({
    connection,
    outbox,
    me: ADA,
    clock,
    random,
    listener: {
      onHello: () => calls.push("hello"),
      onMissed: () => calls.push("missed"),
      onMessage: () => {},
      onInOrder: (_, messages) => shown.push(...messages),
      onConversation: (_, removed) => calls.push(removed ? "removed" : "updated"),
      onGone: (id) => calls.push(`gone ${id}`),
      onPresence: ({ status }) => calls.push(status),
    },
  });
  const socket = () => /** @type {FakeSocket} */ (sockets.at(-1));
  return { clock, sockets, socket, calls, shown, outbox, connection, session };
}

/** @param {FakeSocket} socket */
function answerSync(socket, messages = /** @type {any[]} */ ([]), more = false) {
  const ref = socket.sentOf("sync").at(-1).ref;
  const last_seq = messages.at(-1)?.seq ?? 0;
  socket.say({ type: "synced", ref, conversations: [{ conversation_id: "c1", messages, last_seq, more }] });
}

test("it syncs first and sends what waits only then", async () => {
  const { session, connection, socket, outbox } = tab();
  session.follow("c1", 4);
  await outbox.add("c1", "waiting");
  connection.start();
  socket().say(HELLO);
  await settled();
  assert.deepEqual(socket().sent.map(({ type }) => type), ["sync"]);
  assert.deepEqual(socket().sent[0].cursors, { c1: 4 });
  answerSync(socket(), [message(5)]);
  await settled();
  assert.deepEqual(socket().sent.map(({ type }) => type), ["sync", "message.send"]);
});

test("it asks again for as long as there is more", async () => {
  const { session, connection, socket, shown } = tab();
  session.follow("c1", 0);
  connection.start();
  socket().say(HELLO);
  answerSync(socket(), [message(1), message(2)], true);
  assert.deepEqual(socket().sentOf("sync").at(-1).cursors, { c1: 2 });
  answerSync(socket(), [message(3)]);
  assert.deepEqual(shown.map(({ seq }) => seq), [1, 2, 3]);
});

test("a gap that lasts 300 ms is asked for", async () => {
  const { session, connection, socket, clock, shown } = tab();
  session.follow("c1", 1);
  connection.start();
  socket().say(HELLO);
  answerSync(socket());
  socket().say({ type: "message.created", message: message(3) });
  await clock.pass(299);
  assert.equal(socket().sentOf("sync").length, 1);
  await clock.pass(1);
  assert.equal(socket().sentOf("sync").length, 2);
  answerSync(socket(), [message(2), message(3)]);
  assert.deepEqual(shown.map(({ seq }) => seq), [2, 3]);
});

test("an ack alone is enough to show one's own message in its place", async () => {
  const { session, connection, socket, outbox, shown, calls } = tab();
  session.follow("c1", 1);
  connection.start();
  socket().say(HELLO);
  answerSync(socket());
  await outbox.add("c1", "hello");
  void session.flush();
  await settled();
  const { client_msg_id } = socket().sentOf("message.send")[0];
  socket().say({ type: "ack", client_msg_id, conversation_id: "c1", seq: 2, sent_at: "2026-01-31T12:00:00.000Z" });
  await settled();
  assert.deepEqual(shown.map(({ seq, content, sender }) => [seq, content, sender.username]), [[2, "hello", "ada"]]);
  assert.deepEqual(calls.slice(-1), ["sent hello"]);
  socket().say({ type: "message.created", message: message(2, { client_msg_id, sender: ADA, content: "hello" }) });
  assert.equal(shown.length, 1);
});

test("no ack within 10 s: the socket is dead, and the message goes out again on the next", async () => {
  const { session, connection, sockets, socket, outbox, clock } = tab();
  session.follow("c1", 1);
  connection.start();
  socket().say(HELLO);
  answerSync(socket());
  await outbox.add("c1", "hello");
  void session.flush();
  await clock.pass(10_000);
  assert.equal(connection.state.name, "waiting");
  await clock.pass(500);
  assert.equal(sockets.length, 2);
  socket().say(HELLO);
  answerSync(socket());
  await settled();
  const [first] = /** @type {FakeSocket} */ (sockets[0]).sentOf("message.send");
  const [again] = socket().sentOf("message.send");
  assert.equal(again.client_msg_id, first.client_msg_id);
  assert.equal(first.after_seq, undefined);
  assert.equal(again.after_seq, 1);
});

test("a nack that allows it is tried again after the wait it names", async () => {
  const { session, connection, socket, outbox, clock } = tab({ random: () => 0 });
  connection.start();
  socket().say(HELLO);
  await outbox.add("c1", "hello");
  void session.flush();
  await settled();
  const { client_msg_id } = socket().sentOf("message.send")[0];
  socket().say({ type: "nack", client_msg_id, code: "rate_limited", detail: "Slow.", retry: true, retry_after_ms: 2_500 });
  await clock.pass(2_499);
  assert.equal(socket().sentOf("message.send").length, 1);
  await clock.pass(1);
  assert.equal(socket().sentOf("message.send").length, 2);
});

test("a nack that is final marks the message as failed", async () => {
  const { session, connection, socket, outbox, calls } = tab();
  connection.start();
  socket().say(HELLO);
  await outbox.add("c1", "hello");
  void session.flush();
  await settled();
  const { client_msg_id } = socket().sentOf("message.send")[0];
  socket().say({ type: "nack", client_msg_id, code: "blocked", detail: "No.", retry: false });
  await settled();
  assert.deepEqual(calls.slice(-1), ["failed hello"]);
});

test("`resync` is answered with a sync after a random part of its spread", async () => {
  const { session, connection, socket, clock, calls } = tab({ random: () => 0.5 });
  session.follow("c1", 1);
  connection.start();
  socket().say(HELLO);
  answerSync(socket());
  socket().say({ type: "resync", spread_ms: 4_000 });
  await clock.pass(1_999);
  assert.equal(socket().sentOf("sync").length, 1);
  await clock.pass(1);
  assert.equal(socket().sentOf("sync").length, 2);
  assert.deepEqual(calls, ["hello", "missed", "missed"]);
});

test("a sync without an answer within 10 s ends the socket; one put off is asked again", async () => {
  const { session, connection, socket, clock } = tab();
  session.follow("c1", 1);
  connection.start();
  socket().say(HELLO);
  const { ref } = socket().sentOf("sync")[0];
  socket().say({ type: "nack", ref, code: "unavailable", detail: "Away.", retry: true, retry_after_ms: 1_000 });
  await clock.pass(1_000);
  assert.equal(socket().sentOf("sync").length, 2);
  await clock.pass(10_000);
  assert.equal(connection.state.name, "waiting");
});

test("a conversation that is no longer one's own is let go", async () => {
  const { session, connection, socket, calls } = tab();
  session.follow("c1", 1);
  connection.start();
  socket().say(HELLO);
  const { ref } = socket().sentOf("sync")[0];
  socket().say({ type: "synced", ref, conversations: [{ conversation_id: "c1", error: "not_a_member" }] });
  assert.ok(calls.includes("gone c1"));
});

test("repaired gaps and own messages that went missing are reported, together and not too often", async () => {
  const { session, connection, sockets, socket, outbox, clock } = tab();
  session.follow("c1", 1);
  connection.start();
  socket().say(HELLO);
  answerSync(socket());
  for (const seq of [2, 3]) {
    await outbox.add("c1", `own ${seq}`);
    void session.flush();
    await settled();
    const { client_msg_id } = socket().sentOf("message.send").at(-1);
    socket().say({ type: "ack", client_msg_id, conversation_id: "c1", seq, sent_at: "2026-01-31T12:00:00.000Z" });
    await settled();
  }
  socket().say({ type: "message.created", message: message(2) });
  socket().say({ type: "message.created", message: message(5) });
  await clock.pass(300);
  answerSync(socket(), [message(3), message(4), message(5)]);
  await clock.pass(14_699);
  assert.deepEqual(socket().sentOf("report"), []);
  await clock.pass(1);
  assert.deepEqual(socket().sentOf("report"), [{ type: "report", gap_repairs: 1, lost: 2 }]);
  socket().say({ type: "heartbeat.ack", server_time: "now" });
  socket().say({ type: "message.created", message: message(6) });
  await clock.pass(20_000);
  assert.equal(sockets.length, 1);
  assert.equal(socket().sentOf("report").length, 1);
});

test("what could not be reported is reported on the next socket", async () => {
  const { session, connection, sockets, socket, clock } = tab();
  session.follow("c1", 1);
  connection.start();
  socket().say(HELLO);
  answerSync(socket());
  socket().say({ type: "message.created", message: message(3) });
  await clock.pass(300);
  answerSync(socket(), [message(2), message(3)]);
  socket().end(1006);
  await clock.pass(1_000);
  assert.equal(sockets.length, 2);
  socket().say(HELLO);
  answerSync(socket());
  await clock.pass(15_000);
  assert.deepEqual(socket().sentOf("report"), [{ type: "report", gap_repairs: 1, lost: 0 }]);
});

/** A server with one conversation on an unreliable network: it loses frames and sockets, never what it has acked. */
class Server {
  /** @type {import("../../static/chat/protocol.js").Message[]} */
  log = [];

  /** @param {() => number} random */
  constructor(random) {
    this.random = random;
    /** @type {Wire | null} */
    this.wire = null;
    this.trouble = 0.15;
  }

  connect() {
    this.wire = new Wire(this);
    queueMicrotask(() => this.wire?.say(HELLO));
    return this.wire;
  }

  /** @param {any} fields */
  append(fields) {
    const known = this.log.find(({ client_msg_id }) => client_msg_id === fields.client_msg_id);
    if (known !== undefined) return known;
    const stored = message(this.log.length + 1, fields);
    this.log.push(stored);
    return stored;
  }

  /** @param {object} event */
  tell(event) {
    const { wire } = this;
    if (this.random() >= this.trouble) queueMicrotask(() => wire?.say(event));
  }
}

class Wire extends FakeSocket {
  /** @param {Server} server */
  constructor(server) {
    super();
    this.server = server;
  }

  /** @param {string} frame */
  send(frame) {
    const { server } = this;
    const command = JSON.parse(frame);
    if (server.wire !== this || server.random() < server.trouble) return;
    if (command.type === "heartbeat") server.tell({ type: "heartbeat.ack", server_time: "now" });
    if (command.type === "sync") {
      const messages = server.log.slice(command.cursors.c1, command.cursors.c1 + 5);
      const more = command.cursors.c1 + messages.length < server.log.length;
      const entry = { conversation_id: "c1", messages, last_seq: server.log.length, more };
      server.tell({ type: "synced", ref: command.ref, conversations: [entry] });
    }
    if (command.type === "message.send") {
      const { client_msg_id, conversation_id, content } = command;
      const { seq, sent_at, ...rest } = server.append({ client_msg_id, content, sender: ADA });
      server.tell({ type: "message.created", message: { seq, sent_at, ...rest } });
      server.tell({ type: "ack", client_msg_id, conversation_id, seq, sent_at });
    }
  }
}

test("old state + events == fresh state: the page ends as the log, own messages in the order they were written", async () => {
  for (let seed = 1; seed <= 60; seed += 1) {
    const random = seeded(seed);
    const server = new Server(random);
    const { session, connection, outbox, clock, shown } = tab({ random, newSocket: () => server.connect() });
    session.follow("c1", 0);
    connection.start();
    const own = /** @type {string[]} */ ([]);
    for (let step = 0; step < 30; step += 1) {
      const dice = random();
      if (dice < 0.4) {
        own.push((await outbox.add("c1", `own ${step}`)).content);
        void session.flush();
      } else if (dice < 0.8) {
        server.tell({ type: "message.created", message: server.append({ client_msg_id: `bob-${step}`, sender: BOB }) });
      } else if (dice < 0.9) {
        server.wire?.end(1006);
      }
      await clock.pass(random() * 3_000);
    }
    server.trouble = 0;
    connection.giveUp();
    await clock.pass(120_000);
    assert.deepEqual(shown, server.log, `seed ${seed}`);
    const stored = server.log.filter(({ sender }) => sender.id === ADA.id).map(({ content }) => content);
    assert.deepEqual(stored, own, `seed ${seed}`);
    assert.deepEqual(await outbox.entries(), [], `seed ${seed}`);
  }
});
