// @ts-check
/**
 * What has been written and is not known to be stored yet. It survives a closed tab and is shared by all tabs.
 *
 * A message keeps its client_msg_id on every try, so that trying again is always safe. One tab at a time drains the
 * outbox (it holds a lock meanwhile), oldest first, one message in flight per conversation.
 *
 * @typedef {{
 *   client_msg_id: string, conversation_id: string, content: string, written_at: number,
 *   after_seq: number | null, state: "pending" | "failed", detail: string,
 * }} Entry `after_seq`: the last seq that was held when it was first sent; null: it never was
 * @typedef {{
 *   all: () => Promise<Entry[]>, put: (entry: Entry) => Promise<void>, delete: (id: string) => Promise<void>,
 * }} Storage
 * @typedef {(work: () => Promise<void>) => Promise<void>} Exclusively runs one tab's work at a time
 * @typedef {(
 *   {kind: "ack", seq: number, sent_at: string} | {kind: "refused", detail: string} |
 *   {kind: "later", afterMs: number} | {kind: "lost"}
 * )} Outcome
 * @typedef {(entry: Entry) => Promise<Outcome>} Send a set `after_seq` says that this is not the first try
 * @typedef {{entry: Entry, now: "pending" | "failed" | "removed" | "sent", seq?: number, sent_at?: string}} Change
 */

export class Outbox {
  #lastWrittenAt = 0;
  #draining = false;
  #again = false;

  /**
   * @param {{
   *   storage: Storage, exclusively: Exclusively, newId: () => string, now: () => number,
   *   pause: (ms: number) => Promise<void>, onChange: (change: Change) => void,
   * }} world
   */
  constructor(world) {
    this.world = world;
  }

  /** Everything that waits or has failed, oldest first. @returns {Promise<Entry[]>} */
  async entries() {
    return (await this.world.storage.all()).sort((one, other) => one.written_at - other.written_at);
  }

  /**
   * Keep a message. It is safe once the promise is fulfilled.
   *
   * @param {string} conversationId
   * @param {string} content
   * @param {(entry: Entry) => void} [show] called at once, before anything is written
   */
  async add(conversationId, content, show) {
    this.#lastWrittenAt = Math.max(this.world.now(), this.#lastWrittenAt + 1);
    /** @type {Entry} */
    const entry = {
      client_msg_id: this.world.newId(),
      conversation_id: conversationId,
      content,
      written_at: this.#lastWrittenAt,
      after_seq: null,
      state: "pending",
      detail: "",
    };
    show?.(entry);
    await this.#keep(entry);
    return entry;
  }

  /** Let a failed message be sent again. @param {string} id */
  async retry(id) {
    const entry = await this.#find(id);
    if (entry?.state === "failed") await this.#keep({ ...entry, state: "pending", detail: "" });
  }

  /** Forget a message that is not wanted any more. @param {string} id */
  async remove(id) {
    const entry = await this.#find(id);
    if (entry === undefined) return;
    await this.world.storage.delete(id);
    this.world.onChange({ entry, now: "removed" });
  }

  /**
   * Send what waits. Ends when nothing waits any more or the connection is lost.
   *
   * @param {Send} send
   * @param {(conversationId: string) => number} heldSeq the last seq held of a conversation; 0: unknown
   * @returns {Promise<void>}
   */
  async drain(send, heldSeq) {
    this.#again = true;
    if (this.#draining) return;
    this.#draining = true;
    try {
      await this.world.exclusively(async () => {
        while (this.#again) {
          this.#again = false;
          const waiting = (await this.entries()).filter((entry) => entry.state === "pending");
          const conversations = new Set(waiting.map((entry) => entry.conversation_id));
          await Promise.all([...conversations].map((id) => this.#drainOne(id, send, heldSeq)));
        }
      });
    } finally {
      this.#draining = false;
    }
    if (this.#again) await this.drain(send, heldSeq); // asked for while the lock was being given back
  }

  /**
   * @param {string} conversationId
   * @param {Send} send
   * @param {(conversationId: string) => number} heldSeq
   */
  async #drainOne(conversationId, send, heldSeq) {
    for (;;) {
      const entry = (await this.entries()).find(
        (each) => each.conversation_id === conversationId && each.state === "pending",
      );
      if (entry === undefined) return;
      if (entry.after_seq === null) {
        // Kept before it goes out: if this tab dies now, the next try must know that it is not the first.
        await this.world.storage.put({ ...entry, after_seq: heldSeq(conversationId) });
      }
      if ((await this.#settle(entry, await send(entry))) === "lost") return;
    }
  }

  /**
   * @param {Entry} entry
   * @param {Outcome} outcome
   * @returns {Promise<"lost" | "next">}
   */
  async #settle(entry, outcome) {
    switch (outcome.kind) {
      case "ack":
        await this.world.storage.delete(entry.client_msg_id);
        this.world.onChange({ entry, now: "sent", seq: outcome.seq, sent_at: outcome.sent_at });
        return "next";
      case "refused": {
        const kept = await this.#find(entry.client_msg_id);
        if (kept !== undefined) await this.#keep({ ...kept, state: "failed", detail: outcome.detail });
        return "next";
      }
      case "later":
        await this.world.pause(outcome.afterMs);
        return "next";
      case "lost":
        return "lost";
    }
  }

  /** @param {string} id */
  async #find(id) {
    return (await this.world.storage.all()).find((entry) => entry.client_msg_id === id);
  }

  /** @param {Entry} entry */
  async #keep(entry) {
    await this.world.storage.put(entry);
    this.world.onChange({ entry, now: entry.state });
  }
}
