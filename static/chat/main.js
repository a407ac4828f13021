// @ts-check
/** The chat in the browser: connects the pure modules to the page that the server drew. */

import { Activity } from "./activity.js";
import { Connection } from "./connection.js";
import { Outbox } from "./outbox.js";
import { rest } from "./rest.js";
import { Session } from "./session.js";
import { openStorage } from "./storage.js";
import { channel, exclusively } from "./tabs.js";
import { nameOf } from "./look.js";
import { Banner } from "./views/banner.js";
import { Composer, drafts } from "./views/composer.js";
import { clearShown, thisDevice } from "./views/device.js";
import { redraw, searchWhileTyping } from "./views/fragments.js";
import { ConversationList } from "./views/list.js";
import { MessageLog, find } from "./views/messages.js";
import { goWithNotice, showNotice } from "./views/notices.js";
import { PresenceView } from "./views/presence.js";
import { switcher } from "./views/switcher.js";

/** @typedef {import("./protocol.js").Conversation} Conversation */
/** @typedef {import("./connection.js").State} State */

const READ_PAUSE_MS = 400;

const meta = find(document, "meta[name=me]", HTMLMetaElement);
const me = { id: meta.dataset["id"] ?? "", username: meta.dataset["username"] ?? "", display_name: meta.content };
const server = rest(find(document, "meta[name=csrf-token]", HTMLMetaElement).content);
const logElement = document.querySelector("[data-log]");
const openId = logElement instanceof HTMLElement ? (logElement.dataset["conversation"] ?? null) : null;
const membersOf = document.querySelector("[data-members]")?.getAttribute("data-members") ?? null;
const kept = drafts(me.id);
const clock = { now: () => Date.now(), setTimeout: window.setTimeout.bind(window), clearTimeout: window.clearTimeout.bind(window) };

/** @type {any} */
let reading = null;
let seenUpTo = 0;
let toldUpTo = 0;
let leaving = false;
addEventListener("beforeunload", () => {
  leaving = true;
});

// --- the parts ---------------------------------------------------------------------------------------------------
const storage = await openStorage(me.id);
const tellTabs = channel(`chat-${me.id}`, outboxChanged);
const outbox = new Outbox({
  storage,
  exclusively: exclusively(`chat-outbox-${me.id}`),
  newId: () => crypto.randomUUID(),
  now: () => Date.now(),
  pause: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  onChange(change) {
    outboxChanged(change);
    tellTabs(change);
  },
});
const activity = new Activity(window, { onReturn: () => connection.used() });
const connection = new Connection({
  openSocket,
  clock,
  random: Math.random,
  isOnline: () => navigator.onLine,
  isLoggedIn: () => server.isLoggedIn(),
  isUsed: () => activity.take(),
  onEvent: (event) => session.receive(event),
  onState: stateChanged,
});
const session = new Session({
  connection,
  outbox,
  me,
  clock,
  random: Math.random,
  listener: {
    onHello(hello) {
      document.documentElement.dataset["node"] = hello.node_id;
      presence.peopleChanged();
      void device.refresh(hello.session_id).catch(unimportant);
    },
    onMissed: lookAgain,
    onMessage: (message) => void list.message(message).catch(unimportant),
    onInOrder: (_, messages) => log?.append(messages),
    onConversation: conversationChanged,
    onGone: (id) => removed(id),
    onPresence: (changed) => presence.changed(changed),
  },
});
const device = thisDevice(server);
const banner = new Banner(() => connection.tryNow());
const presence = new PresenceView({
  watch: (userIds) => connection.send({ type: "presence.watch", user_ids: userIds }),
  myId: me.id,
});
const log = openId === null || !(logElement instanceof HTMLElement) ? null : openLog(logElement, openId);
const list = new ConversationList(find(document, "[data-conversations]", HTMLElement), {
  myId: me.id,
  openId,
  isRead: () => log?.isRead() ?? false,
  load: (id) => server.conversation(id),
  hasDraft: (id) => kept.of(id) !== "",
  onChange: () => presence.peopleChanged(),
});
const composer = openId === null ? null : openComposer(openId);

switcher(() =>
  list.rows().map((row) => ({
    name: find(row, ".name", HTMLElement).textContent ?? "",
    href: find(row, "a", HTMLAnchorElement).href,
  })),
);
const findForm = document.querySelector("[data-find]");
if (findForm instanceof HTMLFormElement) searchWhileTyping(findForm, "[data-found]", () => presence.peopleChanged());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") log?.eraseLine();
});
addEventListener("pagehide", () => {
  if (openId !== null) tellRead(openId);
});
addEventListener("offline", () => connection.networkLost());
addEventListener("online", () => connection.tryNow());
connection.start();

function openSocket() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/v1/`);
  return /** @type {import("./connection.js").Socket} */ (/** @type {unknown} */ (socket));
}

// --- the open conversation -----------------------------------------------------------------------------------------
/**
 * @param {HTMLElement} element
 * @param {string} id
 */
function openLog(element, id) {
  session.follow(id, Number(element.dataset["cursor"]));
  const opened = new MessageLog(element, {
    me,
    heldSeq: () => session.heldSeq(id),
    load: (query) => server.messages(id, query),
    onRead: (seq) => markRead(id, seq),
    onRetry: (entryId) => void outbox.retry(entryId).then(() => session.flush()),
    onDelete: (entryId) => void outbox.remove(entryId),
  });
  void outbox.entries().then((entries) => {
    for (const entry of entries) if (entry.conversation_id === id) opened.showWaiting(entry);
  });
  return opened;
}

/** @param {string} id */
function openComposer(id) {
  return new Composer(find(document, "[data-composer]", HTMLFormElement), {
    draft: kept.of(id),
    keepDraft(text) {
      kept.keep(id, text);
    },
    send: (content) => write(id, content),
  });
}

/**
 * @param {string} id
 * @param {string} content
 */
async function write(id, content) {
  const keeping = outbox.add(id, content, (entry) => log?.showWaiting(entry));
  void log?.toLatest().catch(unimportant);
  await keeping;
  void session.flush();
}

/**
 * Tells the server at once, then at most every READ_PAUSE_MS, and what is left when the page goes.
 *
 * @param {string} id
 * @param {number} seq
 */
function markRead(id, seq) {
  if (seq <= seenUpTo) return;
  seenUpTo = seq;
  void clearShown(id).catch(unimportant);
  if (reading === null) tellRead(id);
}

/** @param {string} id */
function tellRead(id) {
  clearTimeout(reading);
  reading = null;
  if (seenUpTo <= toldUpTo) return;
  toldUpTo = seenUpTo;
  reading = setTimeout(() => tellRead(id), READ_PAUSE_MS);
  server.markRead(id, toldUpTo).catch(() => {
    seenUpTo = toldUpTo = 0; // the next scroll, message or look at the page tries again
  });
}

/** Here or in another tab. @param {import("./outbox.js").Change} change */
function outboxChanged({ entry, now, seq }) {
  if (entry.conversation_id !== openId) return;
  if (now === "removed") log?.removeWaiting(entry.client_msg_id);
  else if (now === "sent") log?.showSent(entry.client_msg_id, seq ?? 0);
  else log?.showWaiting(entry);
}

// --- the rest of the page ------------------------------------------------------------------------------------------
/**
 * @param {Conversation} conversation
 * @param {boolean} isRemoved
 */
function conversationChanged(conversation, isRemoved) {
  if (isRemoved) return removed(conversation.id);
  list.update(conversation);
  if (conversation.id === openId) {
    find(document, "[data-title]", HTMLElement).textContent = nameOf(conversation, me.id);
    const count = document.querySelector("[data-member-count]");
    const { length } = conversation.members;
    if (count !== null) count.textContent = `${length} member${length === 1 ? "" : "s"}`;
  }
  if (conversation.id === membersOf) void redrawMembers(conversation.id).catch(unimportant);
}

/** Nobody has told of what changed since the server drew the page, or since the last connection broke. */
function lookAgain() {
  if (membersOf !== null) void redrawMembers(membersOf).catch(unimportant);
  void list.refresh(server.conversations).catch(unimportant);
}

/** @param {string} id */
async function redrawMembers(id) {
  const status = await redraw(location.pathname, "[data-member-count]", "[data-member-list]", "[data-change]");
  if (status === 403) removed(id);
  else presence.peopleChanged();
}

/** @param {string} id */
function removed(id) {
  list.remove(id);
  if (id === openId) seenUpTo = toldUpTo;
  if (leaving) return;
  if (id === openId) composer?.close("You are no longer in this group.");
  else if (id === membersOf) goWithNotice("You are no longer in this group.", "/");
  else showNotice("You are no longer in one of your groups.");
}

/** @param {State} state */
function stateChanged(state) {
  document.documentElement.dataset["connection"] = state.name;
  session.stateChanged(state);
  if (leaving) return;
  if (state.name !== "open") presence.forget();
  if (state.name === "over" && state.why === "ended") {
    const next = encodeURIComponent(location.pathname);
    goWithNotice("Your session has ended. Log in again; what you wrote is kept.", `/accounts/login/?next=${next}`);
  } else if (state.name === "over" && state.why === "banned") {
    showBanned();
  } else {
    banner.show(state);
  }
}

function showBanned() {
  const heading = document.createElement("h1");
  heading.textContent = "This account is closed";
  const text = document.createElement("p");
  text.textContent = "It can't be used any more. If you think that this is a mistake, ask the people who run this server.";
  const section = document.createElement("section");
  section.className = "ended";
  section.setAttribute("role", "alert");
  section.append(heading, text);
  find(document, "#main", HTMLElement).replaceChildren(section);
}

/** What a later frame or the next connection brings again. @param {unknown} error */
function unimportant(error) {
  console.info("not this time:", error);
}
