// @ts-check
/**
 * This browser as a device that notifications go to.
 *
 * It is one when its person has turned that on here, the browser allows it, and its subscription is made for the
 * server's key. The browser may end a subscription at any time, and a login ends with its devices, so each page that
 * opens sees to it again. Who turned it on is remembered by person, as several may share a browser.
 *
 * @typedef {"unsupported" | "insecure" | "unavailable" | "denied" | "off" | "on"} State
 * @typedef {{options: {applicationServerKey: ArrayBuffer | null}, unsubscribe: () => Promise<boolean>, toJSON: () => object}} Subscription
 * @typedef {{
 *   getSubscription: () => Promise<Subscription | null>,
 *   subscribe: (options: {userVisibleOnly: true, applicationServerKey: string}) => Promise<Subscription>,
 * }} Manager
 * @typedef {{
 *   userId: string, key: string, name: string, isSecure: boolean,
 *   manager: (() => Promise<Manager>) | null,
 *   permission: () => "default" | "granted" | "denied", ask: () => Promise<"default" | "granted" | "denied">,
 *   memory: {getItem: (name: string) => string | null, setItem: (name: string, value: string) => void, removeItem: (name: string) => void},
 *   register: (token: string, name: string) => Promise<unknown>, forget: (token: string) => Promise<unknown>,
 * }} World `key`: the server's, empty where it has none; `manager`: null where the browser can't
 */

export class Device {
  /** @param {World} world */
  constructor(world) {
    this.world = world;
  }

  /** @returns {State} */
  state() {
    const { key, isSecure, manager, permission } = this.world;
    if (key === "") return "unavailable";
    if (!isSecure) return "insecure";
    if (manager === null) return "unsupported";
    if (permission() === "denied") return "denied";
    return permission() === "granted" && this.#wanted() ? "on" : "off";
  }

  /** To be called when somebody pressed something: browsers ask for no other reason. @returns {Promise<State>} */
  async turnOn() {
    if (this.state() === "off" && (await this.world.ask()) === "granted") {
      await this.#register();
      this.world.memory.setItem(this.#name(), "on");
    }
    return this.state();
  }

  /** @returns {Promise<State>} */
  async turnOff() {
    this.world.memory.removeItem(this.#name());
    const subscription = await (await this.world.manager?.())?.getSubscription();
    if (subscription) {
      await this.world.forget(JSON.stringify(subscription));
      await subscription.unsubscribe();
    }
    return this.state();
  }

  /** Tells the server, once per login and subscription. @param {string} sessionId which login this is */
  async refresh(sessionId) {
    if (this.state() === "on") await this.#register(sessionId);
  }

  async #register(sessionId = "") {
    const manager = await this.world.manager?.();
    if (!manager) return;
    let subscription = await manager.getSubscription();
    if (subscription && encoded(subscription.options.applicationServerKey) !== this.world.key) {
      await subscription.unsubscribe(); // for a key that the server no longer has
      subscription = null;
    }
    subscription ??= await manager.subscribe({ userVisibleOnly: true, applicationServerKey: this.world.key });
    const token = JSON.stringify(subscription);
    const told = `${sessionId} ${token}`;
    if (sessionId !== "" && this.world.memory.getItem(`told-${this.#name()}`) === told) return;
    await this.world.register(token, this.world.name);
    this.world.memory.setItem(`told-${this.#name()}`, told);
  }

  #wanted() {
    return this.world.memory.getItem(this.#name()) === "on";
  }

  #name() {
    return `notifications-${this.world.userId}`;
  }
}

/**
 * @param {ArrayBuffer | null} key
 * @returns {string} in base64url, as the server writes it
 */
function encoded(key) {
  const bytes = String.fromCharCode(...new Uint8Array(key ?? new ArrayBuffer(0)));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
