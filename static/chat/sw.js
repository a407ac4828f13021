// @ts-check
/**
 * The service worker, served as /sw.js: shows what is pushed while no page is there to show it.
 *
 * Not a module, as not every browser has modules here. One notification per conversation: a newer push replaces it, a
 * "clear" (the conversation was read elsewhere) takes it away, as does the page that shows the conversation.
 *
 * @typedef {{
 *   push_id: string, kind: "message" | "clear", conversation_id: string, seq: number, title: string, body: string,
 *   path: string, badge: number, count: number,
 * }} Push as apps/push/providers/webpush.py sends it
 * @typedef {{url: string, focused: boolean, focus: () => Promise<Page>, navigate: (url: string) => Promise<unknown>}} Page
 * @typedef {{options: {applicationServerKey: ArrayBuffer | null}, toJSON: () => object}} Subscription
 */

(() => {
  /** @type {any} the compiler knows pages, not workers */
  const worker = self;

  worker.addEventListener("install", () => worker.skipWaiting());
  worker.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil(worker.clients.claim()));

  worker.addEventListener("push", (/** @type {any} */ event) => {
    const push = pushIn(event.data);
    if (push !== null) event.waitUntil(push.kind === "clear" ? clear(push) : show(push));
  });

  worker.addEventListener("notificationclick", (/** @type {any} */ event) => {
    event.notification.close();
    event.waitUntil(open(event.notification.data.path));
  });

  worker.addEventListener("pushsubscriptionchange", (/** @type {any} */ event) => {
    event.waitUntil(subscribeAgain(event.oldSubscription ?? null, event.newSubscription ?? null));
  });

  /**
   * @param {{json: () => unknown} | null} data
   * @returns {Push | null} null for what this worker does not know
   */
  function pushIn(data) {
    try {
      const push = /** @type {Push} */ (data?.json());
      return push.kind === "message" || push.kind === "clear" ? push : null;
    } catch {
      return null;
    }
  }

  /** @param {Push} push */
  async function show(push) {
    setBadge(push.badge);
    if ((await pages()).some((page) => page.focused && pathOf(page) === push.path)) return;
    const shown = await worker.registration.getNotifications({ tag: push.conversation_id });
    if (shown.some((/** @type {Notification} */ each) => each.data.seq >= push.seq)) return; // it came twice, or late
    await worker.registration.showNotification(push.title, {
      body: push.body,
      tag: push.conversation_id,
      renotify: true,
      data: { path: push.path, seq: push.seq },
    });
  }

  /** @param {Push} push */
  async function clear(push) {
    setBadge(push.badge);
    const shown = await worker.registration.getNotifications({ tag: push.conversation_id });
    for (const each of shown) if (each.data.seq <= push.seq) each.close();
  }

  /** @param {number} unread */
  function setBadge(unread) {
    void (unread > 0 ? worker.navigator.setAppBadge?.(unread) : worker.navigator.clearAppBadge?.());
  }

  /** The page that shows it; or one of the chat, which goes there; or a new one. @param {string} path */
  async function open(path) {
    const all = await pages();
    const showing = all.find((page) => pathOf(page) === path);
    if (showing !== undefined) return showing.focus();
    const chat = all.find((page) => pathOf(page) === "/" || /^\/c\/[^/]+\/$/.test(pathOf(page)));
    if (chat === undefined) return worker.clients.openWindow(path);
    const focused = await chat.focus();
    return focused.navigate(path).catch(() => worker.clients.openWindow(path)); // not one of ours yet
  }

  /** @returns {Promise<Page[]>} */
  function pages() {
    return worker.clients.matchAll({ type: "window", includeUncontrolled: true });
  }

  /** @param {Page} page */
  function pathOf(page) {
    return new URL(page.url).pathname;
  }

  /**
   * The browser has ended its subscription, or has another one: the server shall know before the next push.
   *
   * @param {Subscription | null} before
   * @param {Subscription | null} now
   */
  async function subscribeAgain(before, now) {
    // Whoever is logged in here: the page has the token without which the server takes no changes.
    const page = await (await fetch("/settings/")).text();
    const token = /<meta name="csrf-token" content="([^"]+)"/.exec(page)?.[1];
    const key = before?.options.applicationServerKey;
    if (token === undefined || !key) return; // the next page that is opened sees to it
    const manager = worker.registration.pushManager;
    const after = now ?? (await manager.subscribe({ userVisibleOnly: true, applicationServerKey: key }));
    await tell("POST", token, { platform: "web", token: JSON.stringify(after), name: "" });
    await tell("DELETE", token, { token: JSON.stringify(before) });
  }

  /**
   * @param {string} method
   * @param {string} csrfToken
   * @param {object} body
   */
  async function tell(method, csrfToken, body) {
    const headers = { "X-CSRFToken": csrfToken, "Content-Type": "application/json" };
    await fetch("/api/v1/users/me/devices", { method, headers, body: JSON.stringify(body) });
  }
})();
