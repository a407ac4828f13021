// @ts-check
/**
 * One conversation's messages in their one order, whatever the order in which they arrive.
 *
 * Applies `cursor + 1`, drops what is not newer than the cursor, holds what is further ahead; a gap that has lasted
 * GAP_MS is due for a `sync`. Pure: time comes in as an argument.
 *
 * @typedef {import("./protocol.js").Message} Message
 * @typedef {import("./protocol.js").SyncedConversation} SyncedConversation
 */

export const GAP_MS = 300;
const MAX_HELD = 1_000; // past it the newest are dropped: a sync brings them again

export class Timeline {
  /** @param {number} cursor the last seq that is held without a gap; 0: nothing yet */
  constructor(cursor) {
    this.cursor = cursor;
    /** @type {Map<number, Message>} */
    this.held = new Map();
    /** @type {number | null} since when something is missing */
    this.gapSince = null;
  }

  /**
   * @param {Message} message
   * @param {number} now milliseconds
   * @returns {Message[]} those that are in order now, oldest first
   */
  receive(message, now) {
    if (message.seq > this.cursor && (this.held.size < MAX_HELD || message.seq === this.cursor + 1)) {
      this.held.set(message.seq, message);
    }
    return this.#release(now);
  }

  /**
   * The server's answer to `sync`. What it leaves out before its first message is not for this member to see.
   *
   * @param {SyncedConversation} synced
   * @param {number} now
   * @returns {Message[]}
   */
  receiveSynced(synced, now) {
    const missed = (synced.messages ?? []).filter((message) => message.seq > this.cursor);
    const first = missed[0];
    if (first !== undefined) {
      this.cursor = Math.max(this.cursor, first.seq - 1);
    } else if (synced.more === false && synced.last_seq !== undefined) {
      this.cursor = Math.max(this.cursor, synced.last_seq);
    }
    for (const message of missed) this.held.set(message.seq, message);
    return this.#release(now);
  }

  /** Whether something has been missing for so long that it will not come by itself. @param {number} now */
  gapDue(now) {
    return this.gapSince !== null && now - this.gapSince >= GAP_MS;
  }

  /** @param {number} now */
  #release(now) {
    const before = this.cursor;
    const ready = [];
    for (let next = this.held.get(before + 1); next !== undefined; next = this.held.get(this.cursor + 1)) {
      this.cursor = next.seq;
      ready.push(next);
    }
    for (const seq of this.held.keys()) if (seq <= this.cursor) this.held.delete(seq);
    if (this.held.size === 0) this.gapSince = null;
    else if (this.gapSince === null || ready.length > 0) this.gapSince = now;
    return ready;
  }
}
