// @ts-check
/**
 * One WebSocket that is opened again whenever it is lost (docs/protocol.md: Heartbeat, Reconnect, close codes).
 *
 * Everything it needs of the world comes as an argument. It calls `onEvent` for each event while open, `hello` first,
 * and `onState` when its state changes. A state is final when it is "over".
 *
 * @typedef {import("./protocol.js").Event} Event
 * @typedef {import("./protocol.js").Command} Command
 * @typedef {{now: () => number, setTimeout: (run: () => void, ms: number) => any, clearTimeout: (timer: any) => void}} Clock
 * @typedef {{
 *   send: (frame: string) => void, close: (code?: number) => void,
 *   onmessage: ((event: {data: unknown}) => void) | null, onclose: ((event: {code: number}) => void) | null,
 * }} Socket
 * @typedef {"ended" | "banned" | "crowded" | "confused"} Ending
 * @typedef {(
 *   {name: "connecting", attempt: number} | {name: "open"} | {name: "waiting", attempt: number, until: number} |
 *   {name: "over", why: Ending}
 * )} State
 */

import { delayMs } from "./backoff.js";
import { afterClose, decode, encode } from "./protocol.js";

const ANSWER_MS = 10_000; // for `hello`, `heartbeat.ack` and acks: longer than that, and the socket is dead
const HEALTHY_MS = 30_000;
const OFFLINE_CHECK_MS = 30_000;

export class Connection {
  /** @type {Socket | null} */
  #socket = null;
  /** @type {Set<any>} */
  #timers = new Set();
  /** @type {any} */
  #heartbeatDue = null;
  #attempt = 0;
  #atLeastMs = 0;

  /**
   * @param {{
   *   openSocket: () => Socket, clock: Clock, random: () => number, isOnline: () => boolean,
   *   isLoggedIn: () => Promise<boolean>, isUsed: () => boolean, onEvent: (event: Event) => void, onState: (state: State) => void,
   * }} world `isLoggedIn` is asked when the server refuses a socket, as a browser does not say why; `isUsed`: whether
   *   somebody has used this client since it was last asked
   */
  constructor(world) {
    this.world = world;
    /** @type {State} */
    this.state = { name: "waiting", attempt: 0, until: 0 };
  }

  start() {
    this.#connect();
  }

  /** Connect without waiting any longer. Not while the server has asked for a pause. */
  tryNow() {
    const crowded = this.state.name === "over" && this.state.why === "crowded";
    if (crowded || (this.state.name === "waiting" && this.#atLeastMs === 0)) this.#connect();
  }

  /** The browser says that there is no network. */
  networkLost() {
    if (this.state.name === "open" || this.state.name === "connecting") this.#lost(1006);
  }

  /** A socket that does not answer is dead, whatever the browser thinks. */
  giveUp() {
    if (this.state.name === "open") this.#lost(1006);
  }

  /** Somebody is back: the server need not wait for the next heartbeat to hear of it. */
  used() {
    this.send({ type: "heartbeat", active: true });
  }

  /**
   * @param {Command} command
   * @returns {boolean} whether it went out; an answer is another matter
   */
  send(command) {
    if (this.state.name !== "open" || this.#socket === null) return false;
    this.#socket.send(encode(command));
    return true;
  }

  #connect() {
    this.#clear();
    this.#atLeastMs = 0;
    this.#enter({ name: "connecting", attempt: this.#attempt });
    const socket = this.world.openSocket();
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      if (this.#socket === socket) this.#receive(data);
    };
    socket.onclose = ({ code }) => {
      if (this.#socket === socket) this.#closed(code);
    };
    this.#later(ANSWER_MS, () => this.#lost(1006));
  }

  /** @param {unknown} data */
  #receive(data) {
    const event = decode(data);
    if (event === null) return;
    if (event.type === "hello") this.#opened(event);
    else if (event.type === "heartbeat.ack") this.#cancel(this.#heartbeatDue);
    else if (event.type === "reconnect") this.#atLeastMs = event.after_ms;
    if (this.state.name === "open") this.world.onEvent(event);
  }

  /** @param {import("./protocol.js").Hello} hello */
  #opened(hello) {
    this.#clear();
    this.#later(HEALTHY_MS, () => {
      this.#attempt = 0;
    });
    this.#later(this.world.random() * hello.heartbeat_interval_ms, () => this.#beat(hello.heartbeat_interval_ms));
    this.#enter({ name: "open" });
  }

  /** @param {number} intervalMs */
  #beat(intervalMs) {
    this.send({ type: "heartbeat", active: this.world.isUsed() });
    this.#heartbeatDue = this.#later(ANSWER_MS, () => this.giveUp());
    this.#later(intervalMs, () => this.#beat(intervalMs));
  }

  /** @param {number} code */
  async #closed(code) {
    const refused = this.state.name === "connecting";
    this.#lost(code);
    if (!refused || this.#isOver() || !this.world.isOnline()) return;
    // Whoever is not logged in is refused before the socket opens.
    if (!(await this.world.isLoggedIn()) && !this.#isOver()) this.#end("ended");
  }

  /** @param {number} code */
  #lost(code) {
    const { next, atLeastMs } = afterClose(code);
    this.#atLeastMs = Math.max(this.#atLeastMs, atLeastMs);
    this.#drop();
    if (next !== "again") return this.#end(next);
    const wait = this.world.isOnline() ? delayMs(this.#attempt, this.world.random, this.#atLeastMs) : OFFLINE_CHECK_MS;
    this.#attempt += 1;
    this.#later(wait, () => this.#connect());
    this.#enter({ name: "waiting", attempt: this.#attempt, until: this.world.clock.now() + wait });
  }

  /** @param {Ending} why */
  #end(why) {
    this.#drop();
    this.#enter({ name: "over", why });
  }

  #isOver() {
    return this.state.name === "over";
  }

  #drop() {
    this.#clear();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  /** @param {State} state */
  #enter(state) {
    this.state = state;
    this.world.onState(state);
  }

  /**
   * @param {number} ms
   * @param {() => void} run
   */
  #later(ms, run) {
    const timer = this.world.clock.setTimeout(() => {
      this.#timers.delete(timer);
      run();
    }, ms);
    this.#timers.add(timer);
    return timer;
  }

  /** @param {any} timer */
  #cancel(timer) {
    this.world.clock.clearTimeout(timer);
    this.#timers.delete(timer);
  }

  #clear() {
    for (const timer of this.#timers) this.world.clock.clearTimeout(timer);
    this.#timers.clear();
  }
}
