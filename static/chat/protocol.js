// @ts-check
/**
 * The wire contract as types (docs/protocol.md, section 1), and the codec. What is unknown is ignored.
 *
 * @typedef {{id: string, username: string, display_name: string}} Person
 * @typedef {Person & {role: "owner" | "admin" | "member"}} Member
 * @typedef {{
 *   conversation_id: string, seq: number, client_msg_id: string, sender: Person,
 *   kind: "text" | "system", content: string, sent_at: string,
 * }} Message
 * @typedef {{
 *   id: string, kind: "direct" | "group", title: string, members: Member[],
 *   last_seq: number, last_read_seq: number, unread_count: number, last_message: Message | null,
 * }} Conversation
 *
 * @typedef {{
 *   type: "message.send", client_msg_id: string, content: string,
 *   conversation_id?: string, to?: string, ref?: string, after_seq?: number,
 * }} Send
 * @typedef {{type: "heartbeat", active?: boolean}} Heartbeat
 * @typedef {{type: "sync", cursors: Record<string, number>, ref?: string}} Sync
 * @typedef {{type: "presence.watch", user_ids: string[]}} Watch
 * @typedef {{type: "report", gap_repairs: number, lost: number}} Report
 * @typedef {Send | Heartbeat | Sync | Watch | Report} Command
 *
 * @typedef {{
 *   type: "hello", user: Person, session_id: string, node_id: string, heartbeat_interval_ms: number,
 *   offline_after_ms: number, limits: {content_chars: number, frame_bytes: number, sends_per_10s: number},
 * }} Hello
 * @typedef {{
 *   type: "ack", ref?: string, client_msg_id: string, conversation_id: string, seq: number, sent_at: string,
 * }} Ack
 * @typedef {{
 *   type: "nack", ref?: string, client_msg_id?: string, code: string, detail: string, retry: boolean,
 *   retry_after_ms?: number,
 * }} Nack
 * @typedef {{type: "message.created", message: Message}} MessageCreated
 * @typedef {{type: "conversation.updated", conversation: Conversation, removed?: true}} ConversationUpdated
 * @typedef {{type: "heartbeat.ack", server_time: string}} HeartbeatAck
 * @typedef {{
 *   conversation_id: string, messages?: Message[], last_seq?: number, more?: boolean, error?: string,
 * }} SyncedConversation
 * @typedef {{type: "synced", ref?: string, conversations: SyncedConversation[]}} Synced
 * @typedef {{type: "presence", user_id: string, status: "online" | "offline", last_seen_at: string | null}} Presence
 * @typedef {{type: "resync", spread_ms: number}} Resync
 * @typedef {{type: "reconnect", after_ms: number}} Reconnect
 * @typedef {(
 *   Hello | Ack | Nack | MessageCreated | ConversationUpdated | HeartbeatAck | Synced | Presence | Resync | Reconnect
 * )} Event
 */

export const MAX_WATCHED = 500;
export const MAX_CONTENT_CHARS = 8_000;
export const MAX_REPORTED = 1_000;

/** What each event must have to be one. @type {Record<Event["type"], Record<string, string>>} */
const REQUIRED = {
  hello: { user: "object", session_id: "string", node_id: "string", heartbeat_interval_ms: "number" },
  ack: { client_msg_id: "string", conversation_id: "string", seq: "number", sent_at: "string" },
  nack: { code: "string", detail: "string", retry: "boolean" },
  "message.created": { message: "object" },
  "conversation.updated": { conversation: "object" },
  "heartbeat.ack": { server_time: "string" },
  synced: { conversations: "object" },
  presence: { user_id: "string", status: "string" },
  resync: { spread_ms: "number" },
  reconnect: { after_ms: "number" },
};

/**
 * @param {Command} command
 * @returns {string}
 */
export function encode(command) {
  return JSON.stringify(command);
}

/**
 * @param {unknown} frame
 * @returns {Event | null} null for what this client does not know
 */
export function decode(frame) {
  const value = typeof frame === "string" ? parsed(frame) : null;
  if (typeof value !== "object" || value === null || !Object.hasOwn(REQUIRED, value.type)) return null;
  const required = REQUIRED[/** @type {Event["type"]} */ (value.type)];
  const whole = Object.entries(required).every(([name, type]) => value[name] !== null && typeof value[name] === type);
  return whole ? value : null;
}

/** @param {string} frame */
function parsed(frame) {
  try {
    return JSON.parse(frame);
  } catch {
    return null;
  }
}

/**
 * What a close code asks of the client.
 *
 * "again": reconnect after at least `atLeastMs`. Everything else is final: "ended" (log in again), "banned",
 * "crowded" (too many connections of this person), "confused" (the two sides do not understand each other).
 *
 * @param {number} code
 * @returns {{next: "again" | "ended" | "banned" | "crowded" | "confused", atLeastMs: number}}
 */
export function afterClose(code) {
  switch (code) {
    case 4400:
    case 4413:
    case 1009:
      return { next: "confused", atLeastMs: 0 };
    case 4401:
      return { next: "ended", atLeastMs: 0 };
    case 4403:
      return { next: "banned", atLeastMs: 0 };
    case 4409:
      return { next: "crowded", atLeastMs: 0 };
    case 4429:
      return { next: "again", atLeastMs: 30_000 };
    default:
      return { next: "again", atLeastMs: 0 };
  }
}

/**
 * The text as the server will store it, or why it will not.
 *
 * @param {string} text
 * @returns {{content: string} | {problem: string}}
 */
export function cleanContent(text) {
  const content = text.trim();
  const length = [...content].length; // the server counts characters, not UTF-16 units
  if (length === 0) return { problem: "There is nothing to send yet." };
  if (length > MAX_CONTENT_CHARS) {
    const over = length - MAX_CONTENT_CHARS;
    return { problem: `This is ${over.toLocaleString("en")} characters too long. Send it in parts.` };
  }
  if (/\0/.test(content) || !content.isWellFormed()) return { problem: "This has characters that are not text." };
  return { content };
}
