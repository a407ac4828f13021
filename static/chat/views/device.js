// @ts-check
/** This browser's world for device.js, and the part of the settings page that shows it. */

import { Device } from "../device.js";
import { find } from "./messages.js";

/** @typedef {import("../device.js").State} State */

/** @type {Record<State, string>} */
const SAYS = {
  unavailable: "This server is not set up to send notifications to browsers.",
  insecure: "Notifications need a secure connection. Open the chat by its https:// address.",
  unsupported: "This browser can't show notifications. On an iPhone or iPad, add the chat to the Home Screen and open it there.",
  denied: "This browser blocks notifications from the chat. Allow them in its settings for this site, then load this page again.",
  off: "You hear nothing here while the chat is closed.",
  on: "You are notified here while the chat is closed.",
};

/**
 * @param {import("../rest.js").Rest} server
 * @returns {Device} this browser, for the person who is logged in
 */
export function thisDevice(server) {
  const { key = "", name = "", user = "" } = find(document, "meta[name=device]", HTMLMetaElement).dataset;
  const able = "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
  return new Device({
    userId: user,
    key,
    name,
    isSecure: isSecureContext,
    manager: able ? async () => (await registration()).pushManager : null,
    permission: () => (able ? Notification.permission : "denied"),
    ask: () => Notification.requestPermission(),
    memory: localStorage,
    register: server.registerDevice,
    forget: server.forgetDevice,
  });
}

/** @returns {Promise<ServiceWorkerRegistration>} */
async function registration() {
  await navigator.serviceWorker.register("/sw.js");
  return navigator.serviceWorker.ready;
}

/** The conversation is on the screen: what was pushed of it is no news. @param {string} conversationId */
export async function clearShown(conversationId) {
  const worker = await navigator.serviceWorker?.getRegistration();
  const shown = (await worker?.getNotifications({ tag: conversationId })) ?? [];
  for (const each of shown) each.close();
}

/** @param {Device} device */
export function showDevice(device) {
  const section = find(document, "[data-device]", HTMLElement);
  const text = find(section, "[data-device-state]", HTMLElement);
  const button = find(section, "button", HTMLButtonElement);

  const show = (/** @type {State} */ state) => {
    section.dataset["state"] = state;
    text.textContent = SAYS[state];
    button.hidden = state !== "on" && state !== "off";
    button.textContent = state === "on" ? "Turn off" : "Turn on";
    button.classList.toggle("primary", state === "off");
  };

  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      show(await (section.dataset["state"] === "on" ? device.turnOff() : device.turnOn()));
    } catch (error) {
      console.info("not this time:", error);
      text.textContent = "That did not work: this is a private window, or the push service of this browser can't be reached. Try again later.";
    } finally {
      button.disabled = false;
    }
  });
  show(device.state());
}
