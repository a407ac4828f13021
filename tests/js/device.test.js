// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { Device } from "../../static/chat/device.js";

const KEY = Buffer.from(Uint8Array.from({ length: 65 }, (_, index) => index + 190)).toString("base64url");

/** A browser with a push service, and a server. @param {Partial<import("../../static/chat/device.js").World>} [given] */
function browser(given = {}) {
  /** @type {{token: string, name: string}[]} */
  const registered = [];
  /** @type {string[]} */
  const forgotten = [];
  const memory = new Map();
  const state = { permission: /** @type {"default" | "granted" | "denied"} */ ("default"), answer: "granted", made: 0, asked: 0 };
  /** @type {any} */
  let subscription = null;
  /** @param {{applicationServerKey: string}} options */
  const subscribe = async ({ applicationServerKey }) => {
    const key = Uint8Array.from(Buffer.from(applicationServerKey, "base64url")).buffer;
    state.made += 1;
    const endpoint = `https://push.example.org/${state.made}`;
    subscription = {
      options: { applicationServerKey: key },
      unsubscribe: async () => ((subscription = null), true),
      toJSON: () => ({ endpoint }),
    };
    return subscription;
  };
  /** @type {import("../../static/chat/device.js").World} */
  const world = {
    userId: "ada",
    key: KEY,
    name: "Firefox on Linux",
    isSecure: true,
    manager: async () => ({ getSubscription: async () => subscription, subscribe }),
    permission: () => state.permission,
    ask: async () => {
      state.asked += 1;
      return (state.permission = /** @type {"granted"} */ (state.answer));
    },
    memory: {
      getItem: (name) => memory.get(name) ?? null,
      setItem: (name, value) => void memory.set(name, value),
      removeItem: (name) => void memory.delete(name),
    },
    register: async (token, name) => registered.push({ token, name }),
    forget: async (token) => forgotten.push(token),
    ...given,
  };
  return { device: new Device(world), world, state, memory, registered, forgotten, subscription: () => subscription };
}

const FIRST = '{"endpoint":"https://push.example.org/1"}';
const SECOND = '{"endpoint":"https://push.example.org/2"}';

test("it says why there are no notifications here", () => {
  assert.equal(browser({ key: "" }).device.state(), "unavailable");
  assert.equal(browser({ isSecure: false }).device.state(), "insecure");
  assert.equal(browser({ manager: null }).device.state(), "unsupported");
  assert.equal(browser({ permission: () => "denied" }).device.state(), "denied");
  assert.equal(browser().device.state(), "off");
  assert.equal(browser({ permission: () => "granted" }).device.state(), "off", "allowed for somebody else");
});

test("turned on, it is registered with the server, and stays on", async () => {
  const { device, registered, state } = browser();
  assert.equal(await device.turnOn(), "on");
  assert.deepEqual(registered, [{ token: FIRST, name: "Firefox on Linux" }]);
  assert.equal(device.state(), "on");
  assert.equal(state.asked, 1);
});

test("a person who says no is not registered, and not asked again", async () => {
  const { device, registered, state } = browser();
  state.answer = "denied";
  assert.equal(await device.turnOn(), "denied");
  assert.equal(await device.turnOn(), "denied");
  assert.deepEqual(registered, []);
  assert.equal(state.asked, 1);
});

test("it is not on when the server could not be told", async () => {
  const { device } = browser({ register: async () => Promise.reject(new TypeError("no network")) });
  await assert.rejects(device.turnOn(), TypeError);
  assert.equal(device.state(), "off");
});

test("turned off, neither the server nor the browser's push service knows it any more", async () => {
  const { device, forgotten, subscription } = browser();
  await device.turnOn();
  assert.equal(await device.turnOff(), "off");
  assert.deepEqual(forgotten, [FIRST]);
  assert.equal(subscription(), null);
  await device.refresh("login");
  assert.equal(subscription(), null);
});

test("a page asks nobody for anything until it is turned on", async () => {
  const { device, registered, state } = browser();
  await device.refresh("login");
  assert.deepEqual([registered, state.asked, state.made], [[], 0, 0]);
});

test("each login tells the server once", async () => {
  const { device, registered } = browser();
  await device.turnOn();
  for (const login of ["first", "first", "second", "second"]) await device.refresh(login);
  assert.equal(registered.length, 3);
});

test("a subscription that the browser has ended is made again", async () => {
  const { device, registered, subscription } = browser();
  await device.turnOn();
  await device.refresh("login");
  await subscription().unsubscribe();
  await device.refresh("login");
  assert.deepEqual(registered.map(({ token }) => token), [FIRST, FIRST, SECOND]);
});

test("a subscription for another key of the server is made again", async () => {
  const { device, world, registered, subscription } = browser();
  await device.turnOn();
  world.key = Buffer.alloc(65, 7).toString("base64url");
  await device.refresh("login");
  assert.deepEqual(registered.map(({ token }) => token), [FIRST, SECOND]);
  assert.deepEqual(Buffer.from(subscription().options.applicationServerKey), Buffer.alloc(65, 7));
});

test("who shares a browser turns it on for themselves alone", async () => {
  const { device, world, registered } = browser();
  await device.turnOn();
  world.userId = "bob";
  assert.equal(device.state(), "off");
  await device.refresh("login of bob");
  assert.equal(registered.length, 1);
});
