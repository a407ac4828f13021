// @ts-check
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { afterClose, cleanContent, decode, encode } from "../../static/chat/protocol.js";

const COMMANDS = ["message.send", "heartbeat", "sync", "presence.watch", "report"];
const FRAMES = new URL("../frames/", import.meta.url);
const golden = readdirSync(FRAMES).map((name) => [name, readFileSync(new URL(name, FRAMES), "utf8")]);

test("every golden event is understood as it stands", () => {
  const events = golden.filter(([, text]) => !COMMANDS.includes(JSON.parse(text ?? "").type));
  assert.ok(events.length >= 20);
  for (const [name, text] of events) assert.deepEqual(decode(text), JSON.parse(text ?? ""), name);
});

test("every golden command goes out as it stands", () => {
  const commands = golden.filter(([, text]) => COMMANDS.includes(JSON.parse(text ?? "").type));
  assert.deepEqual(new Set(commands.map(([, text]) => JSON.parse(text ?? "").type)), new Set(COMMANDS));
  for (const [name, text] of commands) {
    assert.deepEqual(JSON.parse(encode(JSON.parse(text ?? ""))), JSON.parse(text ?? ""), name);
  }
});

test("what is unknown or broken is ignored", () => {
  for (const frame of ["", "{", "null", "7", "[]", '{"type":"shout"}', '{"type":"toString"}', '{"type":"ack"}']) {
    assert.equal(decode(frame), null, frame);
  }
  assert.equal(decode(new Uint8Array(3)), null);
});

test("a golden event that lacks a required field is ignored", () => {
  const ack = JSON.parse(golden.find(([name]) => name === "ack.json")?.[1] ?? "");
  for (const field of ["client_msg_id", "conversation_id", "seq", "sent_at"]) {
    assert.equal(decode(JSON.stringify({ ...ack, [field]: undefined })), null, field);
    assert.equal(decode(JSON.stringify({ ...ack, [field]: null })), null, field);
  }
});

test("close codes say whether to come back", () => {
  const next = Object.fromEntries(
    [4400, 4401, 4403, 4408, 4409, 4413, 4429, 1012, 1013, 1006].map((code) => [code, afterClose(code).next]),
  );
  assert.deepEqual(next, {
    4400: "confused", 4401: "ended", 4403: "banned", 4408: "again", 4409: "crowded", 4413: "confused", 4429: "again",
    1012: "again", 1013: "again", 1006: "again",
  });
  assert.equal(afterClose(4429).atLeastMs, 30_000);
});

test("content is what the server will take", () => {
  assert.deepEqual(cleanContent("  hello \n"), { content: "hello" });
  assert.deepEqual(cleanContent("☀".repeat(8_000)), { content: "☀".repeat(8_000) });
  assert.deepEqual(cleanContent("𝒳".repeat(8_000)), { content: "𝒳".repeat(8_000) });
  for (const text of ["", " \n\t", "x".repeat(8_001), "a\0b", "half \ud83d of a pair"]) {
    assert.ok("problem" in cleanContent(text), JSON.stringify(text.slice(0, 20)));
  }
});
