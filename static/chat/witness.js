// @ts-check
/**
 * Holds the server to its acks: whatever it says later of a conversation has each own message under the number that
 * was acked. What is otherwise has been lost.
 *
 * @typedef {import("./protocol.js").Message} Message
 * @typedef {import("./protocol.js").SyncedConversation} SyncedConversation
 */

const MAX_KEPT = 100; // acks per conversation, the newest

export class Witness {
  /** @type {Map<string, Map<number, string>>} conversation -> seq -> client_msg_id */
  #acks = new Map();

  /**
   * @param {string} conversationId
   * @param {string} clientMsgId
   * @param {number} seq
   */
  acked(conversationId, clientMsgId, seq) {
    const acks = this.#acks.get(conversationId) ?? new Map();
    this.#acks.set(conversationId, acks.set(seq, clientMsgId));
    if (acks.size > MAX_KEPT) acks.delete(acks.keys().next().value);
  }

  /** @param {Message} message @returns {number} how many own messages this shows to be lost; each is told once */
  heard(message) {
    const acks = this.#acks.get(message.conversation_id);
    const own = acks?.get(message.seq);
    if (own === undefined || own === message.client_msg_id) return 0;
    acks?.delete(message.seq);
    return 1;
  }

  /** @param {SyncedConversation} synced @returns {number} as of `heard` */
  synced(synced) {
    const messages = synced.messages ?? [];
    const overwritten = messages.reduce((sum, message) => sum + this.heard(message), 0);
    const there = new Set(messages.map(({ seq }) => seq));
    const [first, last] = [messages[0]?.seq ?? Infinity, messages.at(-1)?.seq ?? 0];
    const end = synced.last_seq ?? Infinity;
    const acks = this.#acks.get(synced.conversation_id) ?? new Map();
    const missing = [...acks.keys()].filter((seq) => seq > end || (seq > first && seq < last && !there.has(seq)));
    for (const seq of missing) acks.delete(seq);
    return overwritten + missing.length;
  }
}
