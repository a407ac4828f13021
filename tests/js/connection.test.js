// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { Connection } from "../../static/chat/connection.js";
import { FakeClock, FakeSocket, HELLO, message, settled } from "./world.js";

/** @param {{random?: number, online?: boolean, loggedIn?: boolean}} [given] */
function connect({ random = 0.5, online = true, loggedIn = true } = {}) {
  const clock = new FakeClock();
  /** @type {FakeSocket[]} */
  const sockets = [];
  /** @type {import("../../static/chat/protocol.js").Event[]} */
  const events = [];
  /** @type {import("../../static/chat/connection.js").State[]} */
  const states = [];
  const given = { online, loggedIn, used: false };
  const connection = new Connection({
    openSocket: () => (sockets.push(new FakeSocket()), /** @type {FakeSocket} */ (sockets.at(-1))),
    clock,
    random: () => random,
    isOnline: () => given.online,
    isLoggedIn: async () => given.loggedIn,
    isUsed: () => given.used,
    onEvent: (event) => events.push(event),
    onState: (state) => states.push(state),
  });
  connection.start();
  const socket = () => /** @type {FakeSocket} */ (sockets.at(-1));
  return { clock, sockets, socket, events, states, connection, given };
}

test("it is open with the first frame, and hears events from then on", () => {
  const { socket, events, connection } = connect();
  assert.equal(connection.send({ type: "heartbeat" }), false);
  socket().say({ type: "message.created", message: message(1) });
  socket().say(HELLO);
  socket().say({ type: "message.created", message: message(2) });
  assert.deepEqual(events.map(({ type }) => type), ["hello", "message.created"]);
  assert.equal(connection.send({ type: "heartbeat" }), true);
});

test("it beats after a random part of the interval, then in every interval", async () => {
  const { clock, socket } = connect({ random: 0.25 });
  socket().say(HELLO);
  await clock.pass(7_499);
  assert.equal(socket().sentOf("heartbeat").length, 0);
  await clock.pass(1);
  assert.equal(socket().sentOf("heartbeat").length, 1);
  socket().say({ type: "heartbeat.ack", server_time: "now" });
  await clock.pass(30_000);
  assert.equal(socket().sentOf("heartbeat").length, 2);
});

test("a heartbeat says whether somebody is using the client, and a return is told at once", async () => {
  const { clock, socket, given, connection } = connect({ random: 0 });
  socket().say(HELLO);
  for (const used of [true, false]) {
    given.used = used;
    await clock.pass(30_000 * socket().sentOf("heartbeat").length);
    socket().say({ type: "heartbeat.ack", server_time: "now" });
  }
  connection.used();
  assert.deepEqual(socket().sentOf("heartbeat").map(({ active }) => active), [true, false, true]);
});

test("a heartbeat without an answer within 10 s ends the socket", async () => {
  const { clock, sockets, connection } = connect({ random: 0.5 });
  sockets[0]?.say(HELLO);
  await clock.pass(15_000 + 9_999);
  assert.equal(connection.state.name, "open");
  await clock.pass(1);
  assert.equal(connection.state.name, "waiting");
  assert.equal(sockets[0]?.closed, true);
  await clock.pass(1_000);
  assert.equal(sockets.length, 2);
});

test("waits grow with each failure and are random within them", async () => {
  const { clock, socket, states } = connect({ random: 0.5 });
  for (let failure = 0; failure < 4; failure += 1) {
    socket().end(1006);
    const state = /** @type {{until: number}} */ (/** @type {unknown} */ (states.at(-1)));
    assert.equal(state.until - clock.now(), 250 * 2 ** failure);
    await clock.pass(250 * 2 ** failure);
  }
});

test("the count starts again after 30 healthy seconds, and not before", async () => {
  const { clock, socket, connection } = connect({ random: 0.9 });
  const fail = async () => {
    socket().end(1006);
    await settled();
    return /** @type {any} */ (connection.state).until - clock.now();
  };
  const first = await fail();
  await clock.pass(first);
  socket().say(HELLO);
  await clock.pass(29_000);
  socket().say({ type: "heartbeat.ack", server_time: "now" });
  const second = await fail();
  assert.ok(second > first);
  await clock.pass(second);
  socket().say(HELLO);
  await clock.pass(28_000);
  socket().say({ type: "heartbeat.ack", server_time: "now" });
  await clock.pass(3_000);
  assert.equal(await fail(), first);
});

test("`reconnect` is a lower bound for the wait", async () => {
  const { clock, socket, sockets } = connect({ random: 0 });
  socket().say(HELLO);
  socket().say({ type: "reconnect", after_ms: 2_000 });
  socket().end(1012);
  await clock.pass(1_999);
  assert.equal(sockets.length, 1);
  await clock.pass(1);
  assert.equal(sockets.length, 2);
});

test("who floods waits for 30 s, whatever the person presses", async () => {
  const { clock, socket, sockets, connection } = connect({ random: 0 });
  socket().say(HELLO);
  socket().end(4429);
  connection.tryNow();
  await clock.pass(29_999);
  assert.equal(sockets.length, 1);
  await clock.pass(1);
  assert.equal(sockets.length, 2);
});

for (const [code, why] of /** @type {[number, string][]} */ ([
  [4400, "confused"], [4401, "ended"], [4403, "banned"], [4409, "crowded"], [4413, "confused"],
])) {
  test(`after ${code} it is over: ${why}`, async () => {
    const { clock, socket, sockets, states } = connect();
    socket().say(HELLO);
    socket().end(code);
    await clock.pass(600_000);
    assert.equal(sockets.length, 1);
    assert.deepEqual(states.at(-1), { name: "over", why });
  });
}

test("one can try now, also after there were too many connections", () => {
  const { socket, sockets, connection } = connect();
  socket().end(1006);
  connection.tryNow();
  assert.equal(sockets.length, 2);
  socket().say(HELLO);
  socket().end(4409);
  connection.tryNow();
  assert.equal(sockets.length, 3);
});

test("a socket that is refused because the session ended is not opened again", async () => {
  const { clock, socket, sockets, states } = connect({ loggedIn: false });
  socket().end(1006);
  await clock.pass(60_000);
  assert.equal(sockets.length, 1);
  assert.deepEqual(states.at(-1), { name: "over", why: "ended" });
});

test("a server that does not say hello within 10 s is left", async () => {
  const { clock, sockets, connection } = connect();
  await clock.pass(10_000);
  assert.equal(connection.state.name, "waiting");
  assert.equal(sockets[0]?.closed, true);
});

test("without a network it waits for one, and asks nobody whether it is logged in", async () => {
  const { clock, socket, sockets, connection, given } = connect({ loggedIn: false });
  socket().say(HELLO);
  given.online = false;
  connection.networkLost();
  assert.equal(connection.state.name, "waiting");
  await clock.pass(29_000);
  assert.equal(sockets.length, 1);
  given.online = true;
  connection.tryNow();
  assert.equal(sockets.length, 2);
});

test("frames and ends of an earlier socket change nothing", () => {
  const { sockets, events, connection } = connect();
  sockets[0]?.say(HELLO);
  connection.giveUp();
  connection.tryNow();
  sockets[0]?.say({ type: "message.created", message: message(1) });
  sockets[0]?.end(4401);
  assert.equal(connection.state.name, "connecting");
  assert.equal(events.length, 1);
});
