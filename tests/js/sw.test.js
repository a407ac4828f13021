// @ts-check
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import vm from "node:vm";

const SCRIPT = readFileSync(new URL("../../static/chat/sw.js", import.meta.url), "utf8");
const ORIGIN = "https://chat.example.org";
const HERE = "0b1e7f52-4c39-4ad3-9a8e-0f4ec2a3b111";
const PATH = `/c/${HERE}/`;

/** A browser's side of a service worker: its windows, what it shows, what it fetches. */
function started() {
  /** @type {Map<string, (event: any) => void>} */
  const heard = new Map();
  /** @type {any[]} */
  const shown = [];
  /** @type {any[]} */
  const windows = [];
  /** @type {string[]} */
  const opened = [];
  /** @type {any[]} */
  const requests = [];
  const browser = { badge: /** @type {number | null} */ (null), loggedIn: true };

  const worker = {
    addEventListener: (/** @type {string} */ type, /** @type {any} */ run) => heard.set(type, run),
    skipWaiting: () => {},
    navigator: {
      setAppBadge: async (/** @type {number} */ number) => void (browser.badge = number),
      clearAppBadge: async () => void (browser.badge = null),
    },
    clients: {
      claim: async () => {},
      matchAll: async () => windows,
      openWindow: async (/** @type {string} */ path) => void opened.push(path),
    },
    registration: {
      getNotifications: async (/** @type {{tag: string}} */ { tag }) => shown.filter((each) => each.tag === tag),
      async showNotification(/** @type {string} */ title, /** @type {any} */ options) {
        for (const each of shown.filter(({ tag }) => tag === options.tag)) each.close();
        const notification = { title, ...options, close: () => shown.splice(shown.indexOf(notification), 1) };
        shown.push(notification);
      },
      pushManager: { subscribe: async (/** @type {any} */ options) => ({ ...options, toJSON: () => ({ endpoint: "new" }) }) },
    },
  };
  const fetch = async (/** @type {string} */ path, /** @type {any} */ options = {}) => {
    requests.push({ path, ...options });
    return { text: async () => (browser.loggedIn ? '<meta name="csrf-token" content="token">' : "<form>log in</form>") };
  };
  vm.runInNewContext(SCRIPT, { self: worker, fetch, URL, JSON });

  /** @param {string} type @param {object} event */
  async function happens(type, event) {
    /** @type {Promise<unknown>[]} */
    const waits = [];
    heard.get(type)?.({ waitUntil: (/** @type {Promise<unknown>} */ promise) => waits.push(promise), ...event });
    await Promise.all(waits);
    return waits.length;
  }

  return {
    browser, shown, windows, opened, requests, happens,
    pushed: (/** @type {object} */ fields = {}) => happens("push", { data: { json: () => ({ ...PUSH, ...fields }) } }),
    clicked: () => happens("notificationclick", { notification: shown[0] }),
  };
}

const PUSH = {
  push_id: "1", kind: "message", conversation_id: HERE, seq: 7, title: "Bob", body: "are you there?", path: PATH, badge: 3, count: 1,
};

/** @param {string} path @param {{focused?: boolean, navigates?: boolean}} [given] */
function window(path, { focused = false, navigates = true } = {}) {
  const page = {
    url: ORIGIN + path,
    focused,
    focus: async () => ((page.focused = true), page),
    navigate: async (/** @type {string} */ to) => (navigates ? void (page.url = ORIGIN + to) : Promise.reject(new TypeError())),
  };
  return page;
}

test("a push is shown, with the number of what is unread", async () => {
  const { pushed, shown, browser } = started();
  await pushed();
  assert.deepEqual(shown.map(({ title, body, tag }) => [title, body, tag]), [["Bob", "are you there?", HERE]]);
  assert.equal(browser.badge, 3);
});

test("a conversation has one notification, the newest", async () => {
  const { pushed, shown } = started();
  await pushed({ seq: 7 });
  await pushed({ seq: 9, body: "hello?", count: 2 });
  await pushed({ seq: 8, body: "late" });
  await pushed({ seq: 9, body: "again" });
  assert.deepEqual(shown.map(({ body, renotify }) => [body, renotify]), [["hello?", true]]);
  await pushed({ conversation_id: "other", seq: 1 });
  assert.equal(shown.length, 2);
});

test("nothing is shown of a conversation that somebody is looking at", async () => {
  const { pushed, shown, windows, browser } = started();
  windows.push(window("/", { focused: true }), window(PATH));
  await pushed({ seq: 7 });
  assert.equal(shown.length, 1, "its window is behind another");
  shown.length = 0;
  windows[1].focused = true;
  await pushed({ seq: 8, badge: 4 });
  assert.equal(shown.length, 0);
  assert.equal(browser.badge, 4);
});

test("a conversation that was read elsewhere is cleared up to there", async () => {
  const { pushed, shown, browser } = started();
  await pushed({ seq: 9 });
  await pushed({ kind: "clear", seq: 8, badge: 1 });
  assert.equal(shown.length, 1, "there is more to read");
  await pushed({ kind: "clear", seq: 9, badge: 0 });
  assert.equal(shown.length, 0);
  assert.equal(browser.badge, null);
});

test("a click focuses the window that shows the conversation", async () => {
  const { pushed, clicked, shown, windows, opened } = started();
  await pushed();
  windows.push(window("/"), window(PATH));
  await clicked();
  assert.deepEqual(windows.map(({ focused }) => focused), [false, true]);
  assert.deepEqual([opened, shown], [[], []]);
});

test("a click takes a window of the chat to the conversation", async () => {
  const { pushed, clicked, windows, opened } = started();
  await pushed();
  windows.push(window("/settings/"), window("/c/another/"));
  await clicked();
  assert.deepEqual(windows.map(({ url, focused }) => [url, focused]), [[`${ORIGIN}/settings/`, false], [ORIGIN + PATH, true]]);
  assert.deepEqual(opened, []);
});

test("a click opens a window where there is none, or none that it may use", async () => {
  for (const present of [[], [window("/settings/")], [window("/c/another/members/")], [window("/", { navigates: false })]]) {
    const { pushed, clicked, windows, opened } = started();
    windows.push(...present);
    await pushed();
    await clicked();
    assert.deepEqual(opened, [PATH]);
  }
});

test("what is no push of ours is ignored", async () => {
  const { happens, pushed, shown } = started();
  const broken = () => JSON.parse("{");
  for (const data of [null, { json: broken }, { json: () => null }, { json: () => 7 }]) {
    assert.equal(await happens("push", { data }), 0);
  }
  assert.equal(await pushed({ kind: "advertisement" }), 0);
  assert.equal(shown.length, 0);
});

test("a subscription that the browser ends is made again and told to the server", async () => {
  const { happens, requests } = started();
  const key = new ArrayBuffer(65);
  const oldSubscription = { options: { applicationServerKey: key }, toJSON: () => ({ endpoint: "old" }) };
  await happens("pushsubscriptionchange", { oldSubscription });
  const [, made, removed] = requests;
  assert.deepEqual([made.method, JSON.parse(made.body).token, made.headers["X-CSRFToken"]], ["POST", '{"endpoint":"new"}', "token"]);
  assert.deepEqual([removed.method, JSON.parse(removed.body)], ["DELETE", { token: '{"endpoint":"old"}' }]);
});

test("a subscription that the browser has replaced is told to the server", async () => {
  const { happens, requests } = started();
  const oldSubscription = { options: { applicationServerKey: new ArrayBuffer(65) }, toJSON: () => ({ endpoint: "old" }) };
  await happens("pushsubscriptionchange", { oldSubscription, newSubscription: { toJSON: () => ({ endpoint: "theirs" }) } });
  assert.equal(JSON.parse(requests[1].body).token, '{"endpoint":"theirs"}');
});

test("nobody is registered who is not logged in", async () => {
  const { happens, requests, browser } = started();
  browser.loggedIn = false;
  await happens("pushsubscriptionchange", { oldSubscription: { options: { applicationServerKey: new ArrayBuffer(65) } } });
  assert.deepEqual(requests.map(({ path }) => path), ["/settings/"]);
});
