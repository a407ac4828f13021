// @ts-check
/** The outside world for tests: a clock that is moved by hand, randomness from a seed, sockets that one answers oneself. */

/** @param {number} seed */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * @template T
 * @param {T[]} items
 * @param {() => number} random
 */
export function shuffled(items, random) {
  const rest = [...items];
  for (let last = rest.length - 1; last > 0; last -= 1) {
    const other = Math.floor(random() * (last + 1));
    [rest[last], rest[other]] = [/** @type {T} */ (rest[other]), /** @type {T} */ (rest[last])];
  }
  return rest;
}

export class FakeClock {
  time = 0;
  #next = 1;
  /** @type {Map<number, {at: number, run: () => void}>} */
  timers = new Map();

  now = () => this.time;

  /** @type {(run: () => void, ms: number) => number} */
  setTimeout = (run, ms) => {
    this.timers.set(this.#next, { at: this.time + ms, run });
    this.#next += 1;
    return this.#next - 1;
  };

  /** @type {(timer: number) => void} */
  clearTimeout = (timer) => void this.timers.delete(timer);

  /** Let time pass, and everything happen that is due meanwhile. @param {number} ms */
  async pass(ms) {
    const end = this.time + ms;
    await settled();
    for (;;) {
      const due = [...this.timers].filter(([, { at }]) => at <= end).sort(([, one], [, other]) => one.at - other.at)[0];
      if (due === undefined) break;
      const [timer, { at, run }] = due;
      this.timers.delete(timer);
      this.time = Math.max(this.time, at);
      run();
      await settled();
    }
    this.time = end;
  }
}

/** Until every promise that can go on has gone on. */
export async function settled() {
  for (let turn = 0; turn < 40; turn += 1) await Promise.resolve();
}

export class FakeSocket {
  /** @type {any[]} */
  sent = [];
  closed = false;
  /** @type {((event: {data: unknown}) => void) | null} */
  onmessage = null;
  /** @type {((event: {code: number}) => void) | null} */
  onclose = null;

  /** @param {string} frame */
  send(frame) {
    this.sent.push(JSON.parse(frame));
  }

  close() {
    this.closed = true;
  }

  /** @param {object} event */
  say(event) {
    this.onmessage?.({ data: JSON.stringify(event) });
  }

  /** @param {number} code */
  end(code) {
    this.onclose?.({ code });
  }

  /** @param {string} type */
  sentOf(type) {
    return this.sent.filter((command) => command.type === type);
  }
}

export const ADA = { id: "7c9e6679-7425-40de-944b-e07fc1f90ae7", username: "ada", display_name: "Ada" };
export const BOB = { id: "1f0e8c1a-2f4b-4a6f-9d59-4c2b1f3f5d10", username: "bob", display_name: "Bob" };
export const HELLO = {
  type: "hello",
  user: ADA,
  session_id: "s-1",
  node_id: "node-1",
  heartbeat_interval_ms: 30_000,
  offline_after_ms: 60_000,
  limits: { content_chars: 8_000, frame_bytes: 65_536, sends_per_10s: 100 },
};

/**
 * @param {number} seq
 * @param {Partial<import("../../static/chat/protocol.js").Message>} [fields]
 * @returns {import("../../static/chat/protocol.js").Message}
 */
export function message(seq, fields = {}) {
  return {
    conversation_id: "c1",
    seq,
    client_msg_id: `m${seq}`,
    sender: BOB,
    kind: "text",
    content: `message ${seq}`,
    sent_at: "2026-01-31T12:00:00.000Z",
    ...fields,
  };
}
