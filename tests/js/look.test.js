// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { continues, day, fuzzy, initials, nameOf, pieces, presenceText, previewOf, short } from "../../static/chat/look.js";
import { ADA, BOB, message } from "./world.js";

const NOW = new Date(2026, 0, 31, 12, 0);

test("initials are those of the first two words", () => {
  assert.deepEqual(["Ada Lovelace", "bob", "Ångström k m", "(late) Ada B", "🎉", ""].map(initials), ["AL", "B", "ÅK", "AB", "🎉", ""]);
});

test("a direct conversation is called after the other, a group by its title", () => {
  const conversation = /** @type {any} */ ({ kind: "direct", title: "", members: [ADA, BOB] });
  assert.equal(nameOf(conversation, ADA.id), "Bob");
  assert.equal(nameOf({ ...conversation, members: [ADA] }, ADA.id), "Nobody");
  assert.equal(nameOf({ ...conversation, kind: "group", title: "Friends" }, ADA.id), "Friends");
});

test("a preview says who speaks, where that is not clear", () => {
  const said = message(1, { content: "hello" });
  assert.equal(previewOf(said, "direct", ADA.id), "hello");
  assert.equal(previewOf(said, "group", ADA.id), "Bob: hello");
  assert.equal(previewOf(said, "group", BOB.id), "You: hello");
  assert.equal(previewOf({ ...said, kind: "system" }, "group", BOB.id), "hello");
});

test("messages of one sender within five minutes of a day go together", () => {
  const said = (/** @type {number} */ minutes, fields = {}) =>
    ({ sender: "a", kind: "text", sentAt: new Date(2026, 0, 31, 12, minutes), ...fields });
  assert.equal(continues(said(0), said(4)), true);
  assert.equal(continues(said(0), said(5)), false);
  assert.equal(continues(said(0), said(1, { sender: "b" })), false);
  assert.equal(continues(said(0, { kind: "system" }), said(1)), false);
  const midnight = { sender: "a", kind: "text", sentAt: new Date(2026, 0, 31, 23, 59) };
  assert.equal(continues(midnight, { ...midnight, sentAt: new Date(2026, 1, 1, 0, 1) }), false);
});

test("days are named as one names them", () => {
  assert.equal(day(new Date(2026, 0, 31, 0, 1), NOW), "Today");
  assert.equal(day(new Date(2026, 0, 30, 23, 59), NOW), "Yesterday");
  assert.match(day(new Date(2026, 0, 5), NOW), /January/);
  assert.doesNotMatch(day(new Date(2026, 0, 5), NOW), /2026/);
  assert.match(day(new Date(2025, 0, 5), NOW), /2025/);
});

test("the list shows the time, the weekday or the date", () => {
  assert.match(short(new Date(2026, 0, 31, 9, 5), NOW), /9:05/);
  assert.match(short(new Date(2026, 0, 29), NOW), /^Thu/);
  assert.match(short(new Date(2026, 0, 5), NOW), /5/);
});

test("presence is said in words", () => {
  const ago = (/** @type {number} */ minutes) => new Date(NOW.getTime() - minutes * 60_000).toISOString();
  assert.equal(presenceText("online", null, NOW), "online");
  assert.equal(presenceText("offline", null, NOW), "offline");
  assert.equal(presenceText("offline", ago(0), NOW), "last seen just now");
  assert.equal(presenceText("offline", ago(59), NOW), "last seen 59 min ago");
  assert.match(presenceText("offline", ago(61), NOW), /^last seen at/);
  assert.match(presenceText("offline", ago(60 * 20), NOW), /^last seen yesterday at/);
  assert.match(presenceText("offline", ago(60 * 24 * 40), NOW), /^last seen on/);
});

test("web addresses are found, and nothing else becomes a link", () => {
  const links = (/** @type {string} */ text) => pieces(text).flatMap(({ href }) => href ?? []);
  assert.deepEqual(links("see https://example.org/a?b=c#d, and HTTP://example.org."), ["https://example.org/a?b=c#d", "HTTP://example.org"]);
  assert.deepEqual(links("(https://example.org/Chat_(software))"), ["https://example.org/Chat_(software)"]);
  assert.deepEqual(links("javascript:alert(1) data:text/html,x ftp://a example.org https://"), []);
  for (const text of ["", "plain", "https://a.b", "a https://a.b c\n\nhttps://c.d!"]) {
    assert.equal(pieces(text).map((piece) => piece.text).join(""), text);
  }
});

test("the switcher finds letters in their order, the closest first", () => {
  const choices = ["Release team", "Eve Boyd", "Rebecca"].map((name) => ({ name }));
  assert.deepEqual(fuzzy("reb", choices).map(({ name }) => name), ["Rebecca"]);
  assert.deepEqual(fuzzy("e", choices).map(({ name }) => name), ["Eve Boyd", "Release team", "Rebecca"]);
  assert.deepEqual(fuzzy("", choices), choices);
  assert.deepEqual(fuzzy("xyz", choices), []);
});
