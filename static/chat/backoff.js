// @ts-check
/** How long to wait before the next attempt: exponential with full jitter, so that clients do not come back together. */

const BASE_MS = 500;
const LONGEST_MS = 30_000;

/**
 * @param {number} attempt how many have failed since the last healthy one
 * @param {() => number} random in [0, 1)
 * @param {number} [atLeastMs] what the server asked for
 * @returns {number} milliseconds
 */
export function delayMs(attempt, random, atLeastMs = 0) {
  return Math.max(atLeastMs, random() * Math.min(LONGEST_MS, BASE_MS * 2 ** attempt));
}
