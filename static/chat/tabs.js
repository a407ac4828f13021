// @ts-check
/**
 * What the tabs of one person share: a lock, and a channel on which they tell each other what changed.
 *
 * @typedef {import("./outbox.js").Exclusively} Exclusively
 * @typedef {import("./outbox.js").Change} Change
 */

/**
 * @param {string} name
 * @returns {Exclusively} without Web Locks the tabs don't wait for each other, and two may send the same message:
 *   under one client_msg_id, so that it still is one
 */
export function exclusively(name) {
  if (navigator.locks === undefined) return (work) => work();
  return async (work) => {
    await navigator.locks.request(name, work);
  };
}

/**
 * @param {string} name
 * @param {(change: Change) => void} onChange what another tab did
 * @returns {(change: Change) => void} tell the other tabs
 */
export function channel(name, onChange) {
  if (typeof BroadcastChannel === "undefined") return () => {};
  const open = new BroadcastChannel(name);
  open.onmessage = ({ data }) => onChange(data);
  return (change) => open.postMessage(change);
}
