// @ts-check
/**
 * The few things that a page asks of REST (docs/protocol.md, section 2).
 *
 * @typedef {import("./protocol.js").Message} Message
 * @typedef {import("./protocol.js").Conversation} Conversation
 */

const ROOT = "/api/v1/";

export class RestError extends Error {
  /** @param {number} status */
  constructor(status) {
    super(`REST said ${status}`);
    this.status = status;
  }
}

/**
 * @param {string} csrfToken
 * @returns what a page may ask. Each call throws RestError, or TypeError when the network is away.
 */
export function rest(csrfToken) {
  /**
   * @param {string} path
   * @param {RequestInit} [options]
   */
  async function ask(path, options = {}) {
    const response = await fetch(ROOT + path, { headers: { "X-CSRFToken": csrfToken }, ...options });
    if (!response.ok) throw new RestError(response.status);
    return response.status === 204 ? null : response.json();
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {object} body
   */
  function change(method, path, body) {
    const headers = { "X-CSRFToken": csrfToken, "Content-Type": "application/json" };
    return ask(path, { method, headers, body: JSON.stringify(body), keepalive: true });
  }

  return {
    /** @type {() => Promise<{results: Conversation[], next_cursor: string | null}>} the most recently active */
    conversations: () => ask("conversations"),

    /** @type {(id: string) => Promise<Conversation>} */
    conversation: (id) => ask(`conversations/${id}`),

    /** @type {(id: string, query: {before_seq?: number, after_seq?: number}) => Promise<{results: Message[], has_more: boolean}>} */
    messages: (id, query) =>
      ask(`conversations/${id}/messages?${new URLSearchParams(Object.entries(query).map(([name, seq]) => [name, `${seq}`]))}`),

    /** @type {(id: string, seq: number) => Promise<void>} */
    markRead: (id, seq) => change("PUT", `conversations/${id}/read`, { seq }),

    /** @type {(token: string, name: string) => Promise<unknown>} notifications come here from now on */
    registerDevice: (token, name) => change("POST", "users/me/devices", { platform: "web", token, name }),

    /** @type {(token: string) => Promise<unknown>} */
    forgetDevice: (token) => change("DELETE", "users/me/devices", { token }),

    /** @returns {Promise<boolean>} false only when the server says so */
    async isLoggedIn() {
      try {
        await ask("users/me");
        return true;
      } catch (error) {
        return !(error instanceof RestError && (error.status === 401 || error.status === 403));
      }
    },
  };
}

/** @typedef {ReturnType<typeof rest>} Rest */
