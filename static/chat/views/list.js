// @ts-check
/**
 * The list of conversations: most recent first, with the last message and how many are unread.
 *
 * @typedef {import("../protocol.js").Message} Message
 * @typedef {import("../protocol.js").Conversation} Conversation
 */

import { hue, initials, nameOf, otherOf, previewOf, short } from "../look.js";
import { find } from "./messages.js";

export class ConversationList {
  /**
   * @param {HTMLElement} list
   * @param {{
   *   myId: string, openId: string | null, isRead: () => boolean, load: (id: string) => Promise<Conversation>,
   *   hasDraft: (id: string) => boolean, onChange: () => void,
   * }} world `isRead`: whether what comes into the open conversation is seen
   */
  constructor(list, world) {
    this.list = list;
    this.world = world;
    this.template = find(document, "[data-row-template]", HTMLTemplateElement);
    this.title = document.title;
    for (const row of this.rows()) {
      this.showDraft(row.dataset["conversation"] ?? "");
      this.#setTime(row);
    }
    this.#changed();
  }

  /** @returns {HTMLElement[]} */
  rows() {
    return /** @type {HTMLElement[]} */ ([...this.list.children]);
  }

  /** Any message of any conversation; the same one again changes nothing. @param {Message} message */
  async message(message) {
    const row = this.#row(message.conversation_id);
    if (row === null) {
      this.update(await this.world.load(message.conversation_id));
      return;
    }
    const missed = message.seq - Number(row.dataset["lastSeq"]);
    if (missed <= 0) return;
    const own = message.sender.id === this.world.myId;
    const seen = own || (message.conversation_id === this.world.openId && this.world.isRead());
    row.dataset["lastSeq"] = `${message.seq}`;
    row.dataset["unread"] = `${seen ? 0 : Number(row.dataset["unread"]) + missed}`;
    const kind = row.querySelector(".avatar.group") === null ? "direct" : "group";
    this.#showLast(row, message, kind);
    if (this.list.firstElementChild !== row) this.list.prepend(row);
    this.#changed();
  }

  /** A conversation as it is now. @param {Conversation} conversation */
  update(conversation) {
    const known = this.#row(conversation.id);
    const row = known ?? this.#build();
    this.#show(row, conversation);
    if (known === null) this.list.prepend(row);
    this.#changed();
  }

  /** @param {string} id */
  remove(id) {
    this.#row(id)?.remove();
    this.#changed();
  }

  /**
   * As the server has it now: the newest in their order, older ones below them, and none that are gone.
   *
   * @param {() => Promise<{results: Conversation[], next_cursor: string | null}>} load
   */
  async refresh(load) {
    const before = this.rows();
    const { results: conversations, next_cursor } = await load();
    const present = new Set(conversations.map(({ id }) => id));
    const isGone = (/** @type {HTMLElement} */ row) => !present.has(row.dataset["conversation"] ?? "");
    if (next_cursor === null) for (const row of before.filter(isGone)) row.remove();
    let place = this.list.firstElementChild;
    for (const conversation of conversations) {
      const row = this.#row(conversation.id) ?? this.#build();
      this.#show(row, conversation);
      // A row that is in its place stays untouched: whoever is pressing it must not lose it.
      if (row === place) place = row.nextElementSibling;
      else this.list.insertBefore(row, place);
    }
    this.#changed();
  }

  /** @param {string} id */
  showDraft(id) {
    const row = this.#row(id);
    if (row !== null) find(row, ".draft", HTMLElement).hidden = id === this.world.openId || !this.world.hasDraft(id);
  }

  /** @param {string} id */
  #row(id) {
    const row = this.list.querySelector(`[data-conversation="${CSS.escape(id)}"]`);
    return row instanceof HTMLElement ? row : null;
  }

  #build() {
    return find(document.importNode(this.template.content, true), ".row-item", HTMLElement);
  }

  /**
   * @param {HTMLElement} row
   * @param {Conversation} conversation
   */
  #show(row, conversation) {
    const { id, kind, last_message } = conversation;
    const name = nameOf(conversation, this.world.myId);
    const other = otherOf(conversation, this.world.myId);
    row.dataset["conversation"] = id;
    const link = find(row, "a", HTMLAnchorElement);
    link.href = `/c/${id}/`;
    if (id === this.world.openId) link.setAttribute("aria-current", "page");
    const avatar = find(row, ".avatar", HTMLElement);
    avatar.className = `avatar hue-${hue(other?.id ?? id)}${kind === "group" ? " group" : ""}`;
    avatar.textContent = initials(name);
    find(row, ".dot", HTMLElement).dataset["presence"] = other?.id ?? "";
    find(row, ".name", HTMLElement).textContent = name;
    this.showDraft(id);
    if (Number(row.dataset["lastSeq"]) > conversation.last_seq) return; // a message came while this was on its way
    const seen = id === this.world.openId && this.world.isRead();
    row.dataset["lastSeq"] = `${conversation.last_seq}`;
    row.dataset["unread"] = `${seen ? 0 : conversation.unread_count}`;
    if (last_message !== null) this.#showLast(row, last_message, kind);
    else find(row, ".preview", HTMLElement).textContent = "No messages yet";
  }

  /**
   * @param {HTMLElement} row
   * @param {Message} message
   * @param {"direct" | "group"} kind
   */
  #showLast(row, message, kind) {
    find(row, ".preview", HTMLElement).textContent = previewOf(message, kind, this.world.myId).slice(0, 200);
    find(row, "time", HTMLTimeElement).dateTime = message.sent_at;
    this.#setTime(row);
  }

  /** @param {HTMLElement} row */
  #setTime(row) {
    const time = find(row, "time", HTMLTimeElement);
    if (time.dateTime !== "") time.textContent = short(new Date(time.dateTime), new Date());
  }

  #changed() {
    let total = 0;
    for (const row of this.rows()) {
      const unread = Number(row.dataset["unread"]);
      total += unread;
      find(row, ".badge", HTMLElement).hidden = unread === 0;
      find(row, ".count", HTMLElement).textContent = unread > 99 ? "99+" : `${unread}`;
    }
    document.title = total > 0 ? `(${total}) ${this.title}` : this.title;
    void (total > 0 ? navigator.setAppBadge?.(total) : navigator.clearAppBadge?.()); // the icon of an installed chat
    find(document, "[data-empty-list]", HTMLElement).hidden = this.list.children.length > 0;
    this.world.onChange();
  }
}
