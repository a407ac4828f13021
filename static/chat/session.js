// @ts-check
/**
 * What happens on a connection, in the order that keeps every promise: sync first, then the outbox.
 *
 * It holds a Timeline for each conversation that is followed (has its messages on the page), and knows which sent
 * messages wait for an answer. Views hear of the rest through the callbacks.
 *
 * @typedef {import("./protocol.js").Event} Event
 * @typedef {import("./protocol.js").Message} Message
 * @typedef {import("./protocol.js").Person} Person
 * @typedef {import("./connection.js").Connection} Connection
 * @typedef {import("./connection.js").Clock} Clock
 * @typedef {import("./connection.js").State} State
 * @typedef {import("./outbox.js").Outbox} Outbox
 * @typedef {import("./outbox.js").Entry} Entry
 * @typedef {import("./outbox.js").Outcome} Outcome
 */

import { delayMs } from "./backoff.js";
import { MAX_REPORTED } from "./protocol.js";
import { GAP_MS, Timeline } from "./timeline.js";
import { Witness } from "./witness.js";

const ANSWER_MS = 10_000;
const REPORT_MS = 15_000; // from the first thing to report; the server takes one report in 10 s

/**
 * @typedef {{
 *   onHello: (hello: import("./protocol.js").Hello) => void,
 *   onMissed: () => void,
 *   onMessage: (message: Message) => void,
 *   onInOrder: (conversationId: string, messages: Message[]) => void,
 *   onConversation: (conversation: import("./protocol.js").Conversation, removed: boolean) => void,
 *   onGone: (conversationId: string) => void,
 *   onPresence: (presence: import("./protocol.js").Presence) => void,
 * }} Listener `onMissed`: anything may have happened since the last frame; `onMessage`: each one, in no order;
 *   `onInOrder`: those of a followed conversation, each once, in their order
 */

export class Session {
  /** @type {Map<string, Timeline>} */
  #timelines = new Map();
  /** @type {Map<string, (outcome: Outcome) => void>} */
  #unanswered = new Map();
  /** @type {Map<string, number>} how often each was put off */
  #putOff = new Map();
  #syncs = 0;
  /** @type {string | null} its ref */
  #unansweredSync = null;
  #synced = false;
  #witness = new Witness();
  /** What is not reported yet. */
  #gapRepairs = 0;
  #lost = 0;
  /** @type {any} */
  #reporting = null;
  /** @type {Set<any>} */
  #timers = new Set();

  /**
   * @param {{connection: Connection, outbox: Outbox, me: Person, clock: Clock, random: () => number, listener: Listener}} world
   */
  constructor(world) {
    this.world = world;
  }

  /**
   * Put a conversation's messages into their order from here on.
   *
   * @param {string} conversationId
   * @param {number} cursor the last seq that the page holds
   */
  follow(conversationId, cursor) {
    this.#timelines.set(conversationId, new Timeline(cursor));
  }

  /** @param {string} conversationId */
  heldSeq(conversationId) {
    return this.#timelines.get(conversationId)?.cursor ?? 0;
  }

  /** Send what waits in the outbox, if now is the time for it. */
  async flush() {
    if (this.#synced) await this.world.outbox.drain((entry) => this.#send(entry), (id) => this.heldSeq(id));
  }

  /** @param {State} state */
  stateChanged(state) {
    if (state.name === "open") return;
    this.#synced = false;
    for (const timer of this.#timers) this.world.clock.clearTimeout(timer);
    this.#timers.clear();
    this.#reporting = null;
    for (const answer of [...this.#unanswered.values()]) answer({ kind: "lost" });
  }

  /** @param {Event} event */
  receive(event) {
    const { listener, random } = this.world;
    switch (event.type) {
      case "hello":
        listener.onHello(event);
        listener.onMissed();
        this.#sync();
        break;
      case "message.created":
        this.#arrived(event.message);
        break;
      case "synced":
        this.#receiveSynced(event);
        break;
      case "ack":
        this.#putOff.delete(event.client_msg_id);
        this.#unanswered.get(event.client_msg_id)?.({ kind: "ack", seq: event.seq, sent_at: event.sent_at });
        break;
      case "nack":
        this.#refused(event);
        break;
      case "conversation.updated":
        listener.onConversation(event.conversation, event.removed === true);
        break;
      case "presence":
        listener.onPresence(event);
        break;
      case "resync":
        this.#later(random() * event.spread_ms, () => {
          listener.onMissed();
          this.#sync();
        });
        break;
    }
  }

  #sync() {
    const cursors = Object.fromEntries([...this.#timelines].map(([id, timeline]) => [id, timeline.cursor]));
    if (this.#timelines.size === 0) return this.#caughtUp();
    this.#syncs += 1;
    const ref = `sync-${this.#syncs}`;
    this.world.connection.send({ type: "sync", cursors, ref });
    this.#later(ANSWER_MS, () => {
      if (this.#unansweredSync === ref) this.world.connection.giveUp();
    });
    this.#unansweredSync = ref;
  }

  #caughtUp() {
    this.#synced = true;
    this.#reportLater();
    void this.flush();
  }

  /** @param {import("./protocol.js").Synced} synced */
  #receiveSynced(synced) {
    if (synced.ref === this.#unansweredSync) this.#unansweredSync = null;
    let more = false;
    for (const each of synced.conversations) {
      const timeline = this.#timelines.get(each.conversation_id);
      if (timeline === undefined) continue;
      if (each.error !== undefined) {
        this.#timelines.delete(each.conversation_id);
        this.world.listener.onGone(each.conversation_id);
        continue;
      }
      this.#lost += this.#witness.synced(each);
      for (const message of each.messages ?? []) this.world.listener.onMessage(message);
      this.#inOrder(each.conversation_id, timeline, timeline.receiveSynced(each, this.world.clock.now()));
      more ||= each.more === true;
    }
    if (more) this.#sync();
    else this.#caughtUp();
  }

  /** @param {Message} message */
  #arrived(message) {
    this.world.listener.onMessage(message);
    this.#lost += this.#witness.heard(message);
    if (this.#synced) this.#reportLater();
    const timeline = this.#timelines.get(message.conversation_id);
    if (timeline === undefined) return;
    this.#inOrder(message.conversation_id, timeline, timeline.receive(message, this.world.clock.now()));
  }

  /** @param {Timeline} timeline */
  #closeGap(timeline) {
    if (!timeline.gapDue(this.world.clock.now()) || this.#unansweredSync !== null) return;
    this.#gapRepairs += 1;
    this.#sync();
  }

  /** Tell the server what had to be mended, so that its people come to know. */
  #reportLater() {
    if (this.#reporting !== null || this.#gapRepairs + this.#lost === 0) return;
    this.#reporting = this.#later(REPORT_MS, () => {
      this.#reporting = null;
      const [gap_repairs, lost] = [Math.min(this.#gapRepairs, MAX_REPORTED), Math.min(this.#lost, MAX_REPORTED)];
      if (!this.world.connection.send({ type: "report", gap_repairs, lost })) return;
      this.#gapRepairs = this.#lost = 0;
    });
  }

  /**
   * @param {string} conversationId
   * @param {Timeline} timeline
   * @param {Message[]} messages
   */
  #inOrder(conversationId, timeline, messages) {
    if (messages.length > 0) this.world.listener.onInOrder(conversationId, messages);
    if (timeline.gapSince !== null) this.#later(GAP_MS, () => this.#closeGap(timeline));
  }

  /**
   * @param {Entry} entry
   * @returns {Promise<Outcome>}
   */
  async #send(entry) {
    /** @type {import("./protocol.js").Send} */
    const command = {
      type: "message.send",
      client_msg_id: entry.client_msg_id,
      conversation_id: entry.conversation_id,
      content: entry.content,
    };
    if (entry.after_seq !== null) command.after_seq = entry.after_seq;
    if (!this.world.connection.send(command)) return { kind: "lost" };
    const outcome = await this.#answer(entry.client_msg_id);
    if (outcome.kind === "ack") {
      this.#witness.acked(entry.conversation_id, entry.client_msg_id, outcome.seq);
      this.#arrived(this.#asMessage(entry, outcome));
    }
    return outcome;
  }

  /**
   * @param {string} clientMsgId
   * @returns {Promise<Outcome>}
   */
  #answer(clientMsgId) {
    const watchdog = this.#later(ANSWER_MS, () => this.world.connection.giveUp());
    return new Promise((resolve) => {
      this.#unanswered.set(clientMsgId, (outcome) => {
        this.#unanswered.delete(clientMsgId);
        this.#cancel(watchdog);
        resolve(outcome);
      });
    });
  }

  /** @param {import("./protocol.js").Nack} nack */
  #refused(nack) {
    if (nack.client_msg_id === undefined) {
      if (nack.ref !== undefined && nack.ref === this.#unansweredSync) {
        this.#unansweredSync = null;
        this.#later(nack.retry_after_ms ?? 1_000, () => this.#sync());
      }
      return;
    }
    const answer = this.#unanswered.get(nack.client_msg_id);
    if (!nack.retry) {
      this.#putOff.delete(nack.client_msg_id);
      answer?.({ kind: "refused", detail: nack.detail });
      return;
    }
    const attempt = this.#putOff.get(nack.client_msg_id) ?? 0;
    this.#putOff.set(nack.client_msg_id, attempt + 1);
    answer?.({ kind: "later", afterMs: delayMs(attempt, this.world.random, nack.retry_after_ms) });
  }

  /**
   * @param {Entry} entry
   * @param {{seq: number, sent_at: string}} ack
   * @returns {Message}
   */
  #asMessage(entry, ack) {
    return {
      conversation_id: entry.conversation_id,
      seq: ack.seq,
      client_msg_id: entry.client_msg_id,
      sender: this.world.me,
      kind: "text",
      content: entry.content,
      sent_at: ack.sent_at,
    };
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
}
