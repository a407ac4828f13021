// @ts-check
/** How people, times and texts look. Pure; the template filters in chat.py say the same where the server draws. */

const MINUTE_MS = 60_000;
const GROUP_MS = 5 * MINUTE_MS;
const HUES = 12;

/** @param {string} id */
export function hue(id) {
  return parseInt(id.slice(0, 2), 16) % HUES;
}

/** @param {string} name */
export function initials(name) {
  const words = name.split(/\s+/).filter(Boolean);
  const plain = words.filter((word) => /^[\p{L}\p{N}]/u.test(word));
  return (plain.length > 0 ? plain : words)
    .slice(0, 2)
    .map((word) => [...word][0])
    .join("")
    .toUpperCase();
}

/**
 * @param {import("./protocol.js").Conversation} conversation
 * @param {string} myId
 */
export function otherOf(conversation, myId) {
  return conversation.kind === "direct" ? conversation.members.find(({ id }) => id !== myId) : undefined;
}

/**
 * @param {import("./protocol.js").Conversation} conversation
 * @param {string} myId
 */
export function nameOf(conversation, myId) {
  return conversation.kind === "group" ? conversation.title : (otherOf(conversation, myId)?.display_name ?? "Nobody");
}

/**
 * @param {import("./protocol.js").Message} message
 * @param {"direct" | "group"} kind of its conversation
 * @param {string} myId
 */
export function previewOf(message, kind, myId) {
  if (message.kind === "system") return message.content;
  if (message.sender.id === myId) return `You: ${message.content}`;
  return kind === "group" ? `${message.sender.display_name}: ${message.content}` : message.content;
}

/**
 * Whether a message goes on where the one before it stopped: same sender, same day, less than five minutes later.
 *
 * @typedef {{sender: string, kind: string, sentAt: Date}} Said
 * @param {Said} before
 * @param {Said} message
 */
export function continues(before, message) {
  return (
    before.kind === "text" &&
    message.kind === "text" &&
    before.sender === message.sender &&
    sameDay(before.sentAt, message.sentAt) &&
    message.sentAt.getTime() - before.sentAt.getTime() < GROUP_MS
  );
}

/**
 * @param {Date} one
 * @param {Date} other
 */
export function sameDay(one, other) {
  return one.toDateString() === other.toDateString();
}

/** @param {Date} moment */
export function clock(moment) {
  return moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

/**
 * @param {Date} moment
 * @param {Date} now
 */
export function day(moment, now) {
  if (sameDay(moment, now)) return "Today";
  if (sameDay(moment, daysBefore(now, 1))) return "Yesterday";
  const sameYear = moment.getFullYear() === now.getFullYear();
  return moment.toLocaleDateString([], {
    weekday: "long",
    day: "numeric",
    month: "long",
    ...(sameYear ? {} : { year: "numeric" }),
  });
}

/**
 * For the list: the time today, the weekday this week, else the date.
 *
 * @param {Date} moment
 * @param {Date} now
 */
export function short(moment, now) {
  if (sameDay(moment, now)) return clock(moment);
  if (moment > daysBefore(now, 6)) return moment.toLocaleDateString([], { weekday: "short" });
  return moment.toLocaleDateString([], { day: "numeric", month: "short" });
}

/**
 * @param {"online" | "offline"} status
 * @param {string | null} lastSeenAt
 * @param {Date} now
 */
export function presenceText(status, lastSeenAt, now) {
  if (status === "online") return "online";
  if (lastSeenAt === null) return "offline";
  const seen = new Date(lastSeenAt);
  const minutes = Math.floor((now.getTime() - seen.getTime()) / MINUTE_MS);
  if (minutes < 1) return "last seen just now";
  if (minutes < 60) return `last seen ${minutes} min ago`;
  if (sameDay(seen, now)) return `last seen at ${clock(seen)}`;
  if (sameDay(seen, daysBefore(now, 1))) return `last seen yesterday at ${clock(seen)}`;
  return `last seen on ${seen.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" })}`;
}

/**
 * A text in pieces, web addresses apart. Punctuation at the end of an address belongs to the sentence.
 *
 * @param {string} text
 * @returns {{text: string, href?: string}[]}
 */
export function pieces(text) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(/\bhttps?:\/\/[^\s<>"“”]+/gi)) {
    const address = match[0].replace(/[.,;:!?'’)\]}…]+$/u, (tail, at) => closing(match[0].slice(0, at), tail));
    if (!URL.canParse(address)) continue;
    if (match.index > end) found.push({ text: text.slice(end, match.index) });
    found.push({ text: address, href: address });
    end = match.index + address.length;
  }
  if (end < text.length) found.push({ text: text.slice(end) });
  return found;
}

/**
 * The part of an address's tail that closes a bracket opened within it, as in …/Chat_(software).
 *
 * @param {string} address
 * @param {string} tail
 */
function closing(address, tail) {
  const open = address.split("(").length - address.split(")").length;
  return open > 0 && tail.startsWith(")") ? ")" : "";
}

/**
 * Names that have these letters in this order, the best first.
 *
 * @template {{name: string}} T
 * @param {string} text
 * @param {T[]} choices the most recent first
 * @returns {T[]}
 */
export function fuzzy(text, choices) {
  const wanted = [...text.toLowerCase().replaceAll(/\s/g, "")];
  const scored = choices.map((choice) => ({ choice, score: score(wanted, choice.name.toLowerCase()) }));
  return scored
    .filter(({ score }) => score !== null)
    .sort((one, other) => Number(one.score) - Number(other.score))
    .map(({ choice }) => choice);
}

/**
 * @param {string[]} wanted
 * @param {string} name
 * @returns {number | null} how far apart the letters are; null: they are not all there
 */
function score(wanted, name) {
  let at = -1;
  let distance = 0;
  for (const letter of wanted) {
    const next = name.indexOf(letter, at + 1);
    if (next === -1) return null;
    distance += next - at - 1;
    at = next;
  }
  return distance;
}

/**
 * @param {Date} now
 * @param {number} days
 */
function daysBefore(now, days) {
  return new Date(now.getFullYear(), now.getMonth(), now.getDate() - days);
}
