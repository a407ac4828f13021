// @ts-check
/**
 * The messages of the open conversation, as a window on its log: at most MAX_SHOWN of them stand in the document.
 *
 * Those in order come first (`data-seq`), one's own that wait for their place stand after them (`data-waiting`). The
 * window is live while its last message is the newest there is. The scroller is a reversed column: its end is 0.
 *
 * @typedef {import("../protocol.js").Message} Message
 * @typedef {import("../protocol.js").Person} Person
 * @typedef {import("../outbox.js").Entry} Entry
 */

import { clock, continues, day, hue, initials, pieces, sameDay } from "../look.js";

const MAX_SHOWN = 300;
const NEAR_END_PX = 100;
const LOAD_AHEAD_PX = 600;
const FAR_PX = 300; // from the end, when the way back is offered

export class MessageLog {
  #hasOlder;
  #live;
  #loading = false;
  #unseen = 0;
  #firstUnread;
  #lineDrawn = false; // since the page was last looked at

  /**
   * @param {HTMLElement} log
   * @param {{
   *   me: Person, heldSeq: () => number,
   *   load: (query: {before_seq?: number, after_seq?: number}) => Promise<{results: Message[], has_more: boolean}>,
   *   onRead: (seq: number) => void, onRetry: (id: string) => void, onDelete: (id: string) => void,
   * }} world
   */
  constructor(log, world) {
    this.log = log;
    this.world = world;
    this.list = find(log, "[data-messages]", HTMLElement);
    this.pill = find(document, "[data-latest]", HTMLButtonElement);
    this.announcer = find(document, "[data-announcer]", HTMLElement);
    this.template = find(document, "[data-message-template]", HTMLTemplateElement);
    this.#hasOlder = log.dataset["hasOlder"] === "true";
    this.#live = log.dataset["live"] === "true";
    this.#firstUnread = Number(log.dataset["firstUnread"]);
    for (const node of this.#nodes()) this.#dress(node);
    this.#decorate(this.#nodes());
    log.querySelector("[data-older]")?.remove();
    log.querySelector("[data-newer]")?.remove();
    log.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    log.addEventListener("click", (event) => this.#clicked(event));
    this.pill.addEventListener("click", () => void this.toLatest().then(() => this.#focusLast()));
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#lineDrawn = false;
      this.#scrolled();
    });
    new ResizeObserver(() => this.#scrolled()).observe(log);
    this.#openAtUnread();
  }

  // --- what happens ----------------------------------------------------------------------------------------------
  /** The next messages, in their order. @param {Message[]} messages */
  append(messages) {
    const fresh = messages.filter((message) => message.seq > this.#lastSeq());
    const others = fresh.filter((message) => message.sender.id !== this.world.me.id);
    if (!this.#live) {
      for (const message of fresh) this.#waiting(message)?.remove();
    } else if (this.#isNearEnd()) {
      for (const node of this.#insert(fresh, this.list.querySelector("[data-waiting]"))) node.dataset["fresh"] = "";
      if (document.visibilityState !== "visible" && others[0] !== undefined) this.#drawLine(others[0].seq);
      this.#trimStart();
      this.log.scrollTop = 0;
    } else {
      this.#keepingPlace(() => this.#insert(fresh, this.list.querySelector("[data-waiting]")));
    }
    if (this.#live && this.#isNearEnd()) this.#announce(others);
    else this.#unseen += others.length;
    this.#scrolled();
  }

  /** One's own message that has no number yet, or was refused. @param {Entry} entry */
  showWaiting(entry) {
    const known = this.#own(entry.client_msg_id);
    if (known !== null && !("waiting" in known.dataset)) return; // it has its place already
    const node = known ?? this.#build(waitingMessage(entry, this.world.me));
    node.dataset["state"] = entry.state;
    const failed = entry.state === "failed";
    find(node, ".failure", HTMLElement).hidden = !failed;
    find(node, ".why", HTMLElement).textContent = failed ? `Not sent. ${entry.detail}` : "";
    describeState(node);
    if (known !== null) return;
    node.dataset["waiting"] = "";
    delete node.dataset["seq"];
    this.list.append(node);
    this.#decorate([node]);
    this.eraseLine();
    this.log.scrollTop = 0;
  }

  /**
   * It is stored; its place in the order may still be to come.
   *
   * @param {string} clientMsgId
   * @param {number} seq
   */
  showSent(clientMsgId, seq) {
    const node = this.#own(clientMsgId);
    if (node === null) return;
    node.dataset["state"] = "sent";
    node.dataset["seq"] = `${seq}`;
    describeState(node);
  }

  /** @param {string} clientMsgId */
  removeWaiting(clientMsgId) {
    const node = this.#own(clientMsgId);
    if (node !== null && "waiting" in node.dataset) node.remove();
  }

  /** Show the end of the conversation, loading it again where the window has left it. */
  async toLatest() {
    if (!this.#live) {
      const page = await this.world.load({});
      for (const node of this.#nodes()) if (!("waiting" in node.dataset)) node.remove();
      this.#insert(page.results, this.list.querySelector("[data-waiting]"));
      this.#setHasOlder(page.has_more);
      await this.#catchUp();
    }
    this.log.scrollTop = 0;
    this.#scrolled();
  }

  /** Whether what arrives now is seen. */
  isRead() {
    return this.#live && this.#isNearEnd() && document.visibilityState === "visible";
  }

  // --- the window --------------------------------------------------------------------------------------------------
  #scrolled() {
    const { log } = this;
    const fromEnd = -log.scrollTop;
    const fromStart = log.scrollHeight - log.clientHeight - fromEnd;
    if (fromStart < LOAD_AHEAD_PX && this.#hasOlder) void this.#loadOlder();
    if (fromEnd < LOAD_AHEAD_PX && !this.#live) void this.#loadNewer();
    if (this.isRead()) {
      this.#unseen = 0;
      const last = this.#lastSeq();
      if (last > 0) this.world.onRead(last);
    }
    this.#showPill(!this.#live || fromEnd > FAR_PX || this.#unseen > 0);
  }

  async #loadOlder() {
    await this.#whileLoading(async () => {
      const page = await this.world.load({ before_seq: this.#firstSeq() });
      this.#keepingPlace(() => {
        this.#insert(page.results, this.list.firstElementChild);
        this.#setHasOlder(page.has_more);
        this.#trimEnd();
      });
    });
  }

  async #loadNewer() {
    await this.#whileLoading(async () => {
      const page = await this.world.load({ after_seq: this.#lastSeq() });
      this.#keepingPlace(() => {
        this.#insert(page.results, this.list.querySelector("[data-waiting]"));
        this.#trimStart();
      });
      if (!page.has_more) await this.#catchUp();
    });
  }

  /** What came in while the last page was loaded. */
  async #catchUp() {
    while (this.#lastSeq() < this.world.heldSeq()) {
      const page = await this.world.load({ after_seq: this.#lastSeq() });
      if (page.results.length === 0) break;
      this.#insert(page.results, this.list.querySelector("[data-waiting]"));
    }
    this.#live = true;
    this.log.dataset["live"] = "true";
  }

  /** @param {() => Promise<void>} work a failure is met again by the next scroll */
  async #whileLoading(work) {
    if (this.#loading) return;
    this.#loading = true;
    this.log.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      console.info("messages could not be loaded:", error);
      await new Promise((resolve) => setTimeout(resolve, 2_000));
    } finally {
      this.#loading = false;
      this.log.removeAttribute("aria-busy");
    }
    this.#scrolled();
  }

  #trimStart() {
    const surplus = this.#nodes().slice(0, Math.max(0, this.#nodes().length - MAX_SHOWN));
    for (const node of surplus) node.remove();
    if (surplus.length > 0) {
      this.#setHasOlder(true);
      this.#decorate(this.#nodes().slice(0, 1));
    }
  }

  #trimEnd() {
    const surplus = this.#nodes()
      .filter((node) => !("waiting" in node.dataset))
      .slice(MAX_SHOWN);
    for (const node of surplus) node.remove();
    if (surplus.length === 0) return;
    this.#live = false;
    this.log.dataset["live"] = "false";
  }

  /** @param {boolean} hasOlder */
  #setHasOlder(hasOlder) {
    this.#hasOlder = hasOlder;
    find(this.log, "[data-beginning]", HTMLElement).hidden = hasOlder;
  }

  /** Do something to the document without moving what is on the screen. @param {() => void} change */
  #keepingPlace(change) {
    const top = this.log.getBoundingClientRect().top;
    const anchor = this.#nodes().find((node) => node.getBoundingClientRect().bottom > top);
    const before = anchor?.getBoundingClientRect().top ?? 0;
    change();
    if (anchor?.isConnected) this.log.scrollTop += anchor.getBoundingClientRect().top - before;
  }

  #isNearEnd() {
    return -this.log.scrollTop <= NEAR_END_PX;
  }

  /** @param {boolean} shown */
  #showPill(shown) {
    const { pill } = this;
    pill.hidden = !shown;
    pill.classList.toggle("has-new", this.#unseen > 0);
    const label = this.#unseen === 0 ? "Newest" : `${this.#unseen} new message${this.#unseen === 1 ? "" : "s"}`;
    find(pill, "span", HTMLElement).textContent = label;
  }

  // --- the line above what is new ------------------------------------------------------------------------------------
  #openAtUnread() {
    const isOlder = this.#firstUnread > 0 && this.#firstUnread < this.#firstSeq();
    const start = isOlder ? this.list.firstElementChild : this.#line();
    const above = start === null ? 0 : start.getBoundingClientRect().top - this.log.getBoundingClientRect().top;
    if (above < 0) this.log.scrollTop += above - 48;
    this.#scrolled();
  }

  #line() {
    const line = this.list.querySelector(".unread-line:not([hidden])");
    return line instanceof HTMLElement ? line : null;
  }

  /** What comes while nobody looks begins below a line. @param {number} seq of the first */
  #drawLine(seq) {
    if (this.#lineDrawn) return;
    this.#lineDrawn = true;
    this.eraseLine();
    find(this.list, `[data-seq="${seq}"] .unread-line`, HTMLElement).hidden = false;
  }

  eraseLine() {
    this.#firstUnread = 0;
    const line = this.#line();
    if (line !== null) line.hidden = true;
  }

  // --- nodes -------------------------------------------------------------------------------------------------------
  /** @returns {HTMLElement[]} */
  #nodes() {
    return /** @type {HTMLElement[]} */ ([...this.list.children]);
  }

  #firstSeq() {
    return Number(this.#nodes().find((node) => !("waiting" in node.dataset))?.dataset["seq"] ?? 0);
  }

  #lastSeq() {
    return Number(this.#nodes().findLast((node) => !("waiting" in node.dataset))?.dataset["seq"] ?? 0);
  }

  /** @param {string} clientMsgId */
  #own(clientMsgId) {
    const node = this.list.querySelector(`[data-own][data-client-msg-id="${CSS.escape(clientMsgId)}"]`);
    return node instanceof HTMLElement ? node : null;
  }

  /** @param {Message} message */
  #waiting(message) {
    const own = message.sender.id === this.world.me.id ? this.#own(message.client_msg_id) : null;
    return own !== null && "waiting" in own.dataset ? own : null;
  }

  /**
   * @param {Message[]} messages
   * @param {Element | null} before
   * @returns {HTMLElement[]}
   */
  #insert(messages, before) {
    const nodes = messages.map((message) => this.#place(message));
    for (const node of nodes) {
      // The oldest waiting message is in the right place already: leave it there, so that nothing flickers.
      if (node === before) before = node.nextElementSibling;
      else this.list.insertBefore(node, before);
    }
    this.#decorate(before instanceof HTMLElement ? [...nodes, before] : nodes);
    return nodes;
  }

  /** The node for a message: the one in which it has been waiting, or another. @param {Message} message */
  #place(message) {
    const node = this.#waiting(message);
    if (node === null) return this.#build(message);
    delete node.dataset["waiting"];
    node.dataset["sentAt"] = message.sent_at;
    find(node, ".failure", HTMLElement).hidden = true;
    this.showSent(message.client_msg_id, message.seq);
    this.#setTime(node);
    return node;
  }

  /** @param {Message} message */
  #build(message) {
    const copy = document.importNode(this.template.content, true);
    const node = find(copy, ".message", HTMLElement);
    const own = message.sender.id === this.world.me.id;
    Object.assign(node.dataset, {
      seq: `${message.seq}`,
      clientMsgId: message.client_msg_id,
      sender: message.sender.id,
      sentAt: message.sent_at,
      kind: message.kind,
      state: "sent",
    });
    if (own) node.dataset["own"] = "";
    const avatar = find(node, ".avatar", HTMLElement);
    avatar.textContent = initials(message.sender.display_name);
    avatar.classList.add(`hue-${hue(message.sender.id)}`);
    find(node, ".who", HTMLElement).textContent = message.sender.display_name;
    find(node, ".text", HTMLElement).textContent = message.content;
    find(node, ".unread-line", HTMLElement).hidden = message.seq === 0 || message.seq !== this.#firstUnread;
    this.#dress(node);
    return node;
  }

  /** What the server can't know: the reader's time zone; and links. @param {HTMLElement} node */
  #dress(node) {
    this.#setTime(node);
    describeState(node);
    const text = find(node, ".text", HTMLElement);
    const found = pieces(text.textContent ?? "");
    if (found.some(({ href }) => href !== undefined)) text.replaceChildren(...found.map(asNode));
  }

  /** @param {HTMLElement} node */
  #setTime(node) {
    const moment = new Date(node.dataset["sentAt"] ?? "");
    const time = find(node, ".meta time", HTMLTimeElement);
    time.dateTime = moment.toISOString();
    time.textContent = clock(moment);
    time.title = moment.toLocaleString();
  }

  /** Days and groups depend on the message before. @param {HTMLElement[]} nodes */
  #decorate(nodes) {
    const now = new Date();
    for (const node of nodes) {
      const said = saidIn(node);
      const before = node.previousElementSibling instanceof HTMLElement ? saidIn(node.previousElementSibling) : null;
      const newDay = before === null || !sameDay(before.sentAt, said.sentAt);
      const heading = find(node, ".day", HTMLElement);
      heading.hidden = !newDay;
      find(heading, "time", HTMLElement).textContent = newDay ? day(said.sentAt, now) : "";
      node.toggleAttribute("data-continued", before !== null && continues(before, said));
    }
  }

  // --- people ------------------------------------------------------------------------------------------------------
  /** @param {Message[]} messages */
  #announce(messages) {
    const texts = messages.map(({ sender, kind, content }) => (kind === "text" ? `${sender.display_name}: ${content}` : content));
    if (texts.length > 0) this.announcer.textContent = texts.join("\n");
  }

  #focusLast() {
    this.#nodes().at(-1)?.focus({ preventScroll: true });
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const button = event.target instanceof Element ? event.target.closest("button") : null;
    const id = button?.closest(".message")?.getAttribute("data-client-msg-id");
    if (button === null || id === null || id === undefined) return;
    if ("retry" in button.dataset) this.world.onRetry(id);
    if ("delete" in button.dataset) this.world.onDelete(id);
  }
}

const STATES = { pending: "sending", sent: "sent", failed: "not sent" };

/** What the sign beside one's own message says. @param {HTMLElement} node */
function describeState(node) {
  const sign = find(node, ".state", HTMLElement);
  if (!("own" in node.dataset)) return;
  const label = STATES[/** @type {keyof typeof STATES} */ (node.dataset["state"])];
  sign.setAttribute("role", "img");
  sign.setAttribute("aria-label", label);
  sign.title = label;
}

/**
 * @param {Entry} entry
 * @param {Person} me
 * @returns {Message}
 */
function waitingMessage(entry, me) {
  return {
    conversation_id: entry.conversation_id,
    seq: 0,
    client_msg_id: entry.client_msg_id,
    sender: me,
    kind: "text",
    content: entry.content,
    sent_at: new Date(entry.written_at).toISOString(),
  };
}

/** @param {HTMLElement} node */
function saidIn(node) {
  const { sender = "", kind = "", sentAt = "" } = node.dataset;
  return { sender, kind, sentAt: new Date(sentAt) };
}

/** @param {{text: string, href?: string}} piece */
function asNode({ text, href }) {
  if (href === undefined) return document.createTextNode(text);
  const link = document.createElement("a");
  link.href = href;
  link.rel = "noopener noreferrer nofollow";
  link.target = "_blank";
  link.textContent = text;
  return link;
}

/**
 * @template {Element} T
 * @param {ParentNode} within
 * @param {string} selector
 * @param {new () => T} type
 * @returns {T} what the template promises to have
 */
export function find(within, selector, type) {
  const found = within.querySelector(selector);
  if (!(found instanceof type)) throw new TypeError(`there is no ${selector} on this page`);
  return found;
}
