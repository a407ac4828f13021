// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { Activity } from "../../static/chat/activity.js";

function opened() {
  const page = new EventTarget();
  let returns = 0;
  const activity = new Activity(page, { onReturn: () => (returns += 1) });
  return { activity, page, returns: () => returns, happens: (/** @type {string} */ type) => page.dispatchEvent(new Event(type)) };
}

test("a page that has just been opened is used, and one that lies open is not", () => {
  const { activity } = opened();
  assert.equal(activity.take(), true);
  assert.equal(activity.take(), false);
  assert.equal(activity.take(), false);
});

for (const sign of ["pointerdown", "pointermove", "keydown", "wheel", "touchmove", "focus"]) {
  test(`${sign} is a sign of use, once`, () => {
    const { activity, happens } = opened();
    activity.take();
    happens(sign);
    happens(sign);
    assert.equal(activity.take(), true);
    assert.equal(activity.take(), false);
  });
}

test("messages that scroll by are no sign of use", () => {
  const { activity, happens } = opened();
  activity.take();
  for (const type of ["scroll", "blur", "resize", "visibilitychange"]) happens(type);
  assert.equal(activity.take(), false);
});

test("a return is told at once", () => {
  const { happens, returns } = opened();
  happens("pointermove");
  assert.equal(returns(), 0);
  happens("focus");
  assert.equal(returns(), 1);
});
