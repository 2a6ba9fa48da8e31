// What the page's pure modules do; `test_page.py` runs this.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  findIn, messagesOf, newConversation, readFile, titleOf, toFile, toMarkdown,
} from "../../serve/playground/page/conversations.js";
import { glanceOf } from "../../serve/playground/page/fleet.js";
import { formulaAt } from "../../serve/playground/page/formula.js";
import { allowed, controlsOf, requestOf } from "../../serve/playground/page/options.js";
import { parseMetrics, quantile, sum } from "../../serve/playground/page/prometheus.js";
import {
  addEvent, endReply, newReply, phaseOf, timesOf, tokensOf,
} from "../../serve/playground/page/reply.js";
import { SseDecoder } from "../../serve/playground/page/sse.js";
import en from "../../serve/playground/page/words/en.js";
import zh from "../../serve/playground/page/words/zh.js";

const data = (delta, more = {}) => ({ data: JSON.stringify({ choices: [{ delta, ...more }] }) });

// --- events ---------------------------------------------------------------------------------------

for (const end of ["\n", "\r\n"]) {
  test(`events are the same wherever a stream is cut (${JSON.stringify(end)})`, () => {
    const text = [": r1.votes {}", "", "data: {\"a\":1}", "", "event: x", "data: one", "data:two", "", "data: 数学", "", ""].join(end);
    const whole = [{ comment: "r1.votes {}" }, { data: "{\"a\":1}" }, { data: "one\ntwo" }, { data: "数学" }];
    for (let cut = 0; cut <= text.length; cut += 1) {
      const decoder = new SseDecoder();
      assert.deepEqual([...decoder.decode(text.slice(0, cut)), ...decoder.decode(text.slice(cut))], whole);
    }
  });
}

// --- a reply --------------------------------------------------------------------------------------

test("a reply thinks, answers and ends, with its times", () => {
  const reply = newReply({ model: "m", preset: "math" }, 1000);
  assert.equal(phaseOf(reply), "waiting");
  addEvent(reply, data({ role: "assistant", content: "" }), 1100);
  addEvent(reply, data({ reasoning_content: "a", reasoning: "a" }, { token_ids: [1, 2] }), 1200);
  assert.equal(phaseOf(reply), "thinking");
  addEvent(reply, data({ reasoning: "b" }), 1300);
  addEvent(reply, data({ content: "c" }, { token_ids: [3] }), 2200);
  assert.equal(phaseOf(reply), "answering");
  assert.deepEqual(tokensOf(reply), { thinking: 2, answer: 1, exact: false });
  addEvent(reply, { data: JSON.stringify({ choices: [{ delta: {}, finish_reason: "stop" }], r1: { recovered: "length" } }) }, 2300);
  addEvent(reply, { data: JSON.stringify({ choices: [], usage: { completion_tokens: 9, completion_tokens_details: { reasoning_tokens: 5 } } }) }, 2300);
  addEvent(reply, { data: "[DONE]" }, 2300);
  endReply(reply, 3200);
  assert.equal(reply.thinking + reply.answer, "abc");
  assert.equal(reply.r1.recovered, "length");
  assert.deepEqual(tokensOf(reply), { thinking: 5, answer: 4, exact: true });
  assert.deepEqual(timesOf(reply, 9999), { first: 0.2, thinking: 1.2, total: 2.2, rate: 4.5 });
  assert.equal(phaseOf(reply), "over");
});

test("votes are counted as they come", () => {
  const reply = newReply({ model: "m", votes: 8 }, 0);
  assert.equal(phaseOf(reply), "voting");
  addEvent(reply, { comment: 'r1.votes {"n":8,"counted":2,"share":0.5,"answers":[]}' }, 1);
  addEvent(reply, { comment: "keep-alive" }, 1);
  assert.equal(reply.votes.counted, 2);
  addEvent(reply, { data: JSON.stringify({ choices: [], r1: { votes: { n: 8, counted: 5, share: 1, answers: [] } } }) }, 2);
  assert.equal(reply.votes.counted, 5);
});

test("an error in the stream is kept beside what had come", () => {
  const reply = newReply({ model: "m" }, 0);
  addEvent(reply, data({ content: "half" }), 1);
  addEvent(reply, { data: JSON.stringify({ error: { message: "gone", code: "engine_failed" } }) }, 2);
  assert.deepEqual([reply.answer, reply.failure], ["half", { message: "gone", code: "engine_failed" }]);
});

// --- conversations --------------------------------------------------------------------------------

function talk() {
  const conversation = { ...newConversation("1", 5), title: "sums" };
  const reply = { ...newReply({ model: "m" }, 0), thinking: "ones: 7+5", answer: "132", over: true, endMs: 0 };
  const other = { ...newReply({ model: "m" }, 0), answer: "133", over: true, endMs: 0 };
  const silent = { ...newReply({ model: "m" }, 0), thinking: "and", stopped: true, over: true, endMs: 0 };
  conversation.turns = [
    { role: "user", content: "What is 47 + 85?" },
    { role: "assistant", variants: [other, reply], shown: 1 },
    { role: "user", content: "Sure?" },
    { role: "assistant", variants: [silent], shown: 0 },
  ];
  return conversation;
}

test("the server gets the turns without thinking, and no question that had no answer but the last", () => {
  const answered = [
    { role: "user", content: "What is 47 + 85?" },
    { role: "assistant", content: "132" },
  ];
  const { turns } = talk();
  assert.deepEqual(messagesOf(turns.slice(0, 3)), [...answered, { role: "user", content: "Sure?" }]);
  const next = { role: "user", content: "And?" };
  assert.deepEqual(messagesOf([...turns, next]), [...answered, next]);
});

test("a conversation is found by all the words, in questions, answers and thinking", () => {
  assert.match(findIn(talk(), "47 ONES"), /47/);
  assert.match(findIn(talk(), "ones"), /ones: 7\+5/);
  assert.equal(findIn(talk(), "sums"), "");
  assert.equal(findIn(talk(), "47 twos"), null);
});

test("titles are one line, cut between characters", () => {
  assert.equal(titleOf("  two\n lines "), "two lines");
  assert.equal([...titleOf("🙂".repeat(99))].length, 60);
});

test("a file of conversations comes back as it was, under new ids", () => {
  const [back] = readFile(toFile([talk()]), () => "2", 9);
  assert.deepEqual(back, { ...talk(), id: "2" });
});

test("a file of another program has messages alone", () => {
  const text = JSON.stringify({
    r1_serve: 1,
    conversations: [{ created: "2026-11-27T00:00:00Z", messages: [
      { role: "user", content: "hello" },
      { role: "assistant", content: "hi", reasoning_content: "greet" },
    ] }],
  });
  const [conversation] = readFile(text, () => "3", 9);
  assert.equal(conversation.title, "hello");
  assert.equal(conversation.created, Date.UTC(2026, 10, 27));
  assert.equal(conversation.turns[1].variants[0].thinking, "greet");
});

test("of a hostile file nothing is taken that is of another kind", () => {
  const odd = { toString: 1, valueOf: 1 };
  const reply = {
    role: "assistant", content: odd, usage: { completion_tokens: 3, completion_tokens_details: { reasoning_tokens: odd } },
    votes: { answers: [null, { answer: odd, count: odd }, ...Array(1e5).fill({})] }, r1: { recovered: odd, failovers: odd }, failure: odd,
  };
  const text = JSON.stringify({ r1_serve: 1, conversations: [{ updated: 1e18, messages: [reply] }] });
  const [conversation] = readFile(text, () => "4", 9);
  assert.equal(conversation.updated, 9);
  const [read] = conversation.turns[0].variants;
  assert.deepEqual([read.answer, read.r1, read.failure], ["", { recovered: "", failovers: null }, { message: "", code: "" }]);
  assert.equal(read.votes.answers.length, 64);
  assert.deepEqual(read.votes.answers[1], { answer: "", count: 0 });
  assert.deepEqual(tokensOf(read), { thinking: 0, answer: 3, exact: true });
});

for (const [text, why] of [
  ["{", /JSON/],
  ["{}", /r1_serve/],
  ['{"r1_serve": 1, "conversations": [{}]}', /conversations\[0\] has no messages/],
  ['{"r1_serve": 1, "conversations": [{"messages": [{"role": "tool"}]}]}', /messages\[0\] is of neither/],
]) {
  test(`a file that is none says so: ${text}`, () => {
    assert.throws(() => readFile(text, () => "1", 0), why);
  });
}

test("as Markdown the thinking is folded", () => {
  const text = toMarkdown(talk(), { you: "You", thinking: "Thinking" });
  assert.match(text, /^# sums\n\n\*\*You\*\*\n\nWhat is 47/);
  assert.match(text, /<details><summary>Thinking<\/summary>\n\nones: 7\+5/);
});

// --- options --------------------------------------------------------------------------------------

const PRESET = {
  id: "debug", description: "", temperature: 0.5, top_p: 0.95, max_tokens: 32768, thinking_token_budget: null,
  votes: 1, pinned: ["top_p"], bounds: { temperature: [0.3, 0.8] },
};

test("a field's range is the preset's and the model's", () => {
  const controls = Object.fromEntries(controlsOf(PRESET, 4096).map((it) => [it.field, it]));
  assert.deepEqual(controls.temperature, { field: "temperature", min: 0.3, max: 0.8, step: 0.05, own: 0.5, pinned: false });
  assert.equal(controls.top_p.pinned, true);
  assert.deepEqual([controls.max_tokens.max, controls.max_tokens.own, controls.max_tokens.step], [4096, 4096, 32]);
  assert.equal(controls.thinking_token_budget.own, null);
});

test("only what the visitor changed is sent, within what the preset allows", () => {
  const kept = allowed({ temperature: 2, top_p: 0.1, votes: 4 }, controlsOf(PRESET, 4096));
  assert.deepEqual(kept, { temperature: 0.8, votes: 4 });
  const request = requestOf("m", "debug", kept, []);
  assert.deepEqual(Object.keys(request), ["model", "messages", "preset", "temperature", "votes", "stream", "stream_options", "return_token_ids"]);
});

// --- mathematics ----------------------------------------------------------------------------------

for (const [text, raw] of [
  ["\\(a+b\\) and", "\\(a+b\\)"],
  ["\\[x\\] y", "\\[x\\]"],
  ["$$a$$", "$$a$$"],
  ["$x_1$ is", "$x_1$"],
  ["\\boxed{\\frac{1}{2}}.", "\\boxed{\\frac{1}{2}}"],
  ["$5 and $6", undefined],
  ["\\(a", undefined],
  ["\\boxed{1", undefined],
  ["$ 5$", undefined],
]) {
  test(`a formula in ${text}`, () => assert.equal(formulaAt(text)?.raw, raw));
}

// --- the fleet ------------------------------------------------------------------------------------

const metrics = (count, tokens) => parseMetrics(`# TYPE r1_in_flight gauge
r1_in_flight 2.0
r1_queue_depth 1
r1_tokens_total{kind="prompt",preset="math"} 99999
r1_tokens_total{kind="reasoning",preset="math"} ${tokens}
r1_tokens_total{kind="answer",preset="a\\"b"} 0
r1_requests_total{outcome="ok",preset="math",route="/v1"} ${count}
r1_requests_total{outcome="rejected",preset="math",route="/v1"} ${count / 4}
r1_time_to_first_token_seconds_bucket{class="interactive",le="0.1",preset="math"} ${count / 2}
r1_time_to_first_token_seconds_bucket{class="interactive",le="0.3",preset="math"} ${count}
r1_time_to_first_token_seconds_bucket{class="interactive",le="+Inf",preset="math"} ${count}
`);

test("metrics are read with their labels", () => {
  const samples = metrics(10, 50);
  assert.equal(sum(samples, "r1_tokens_total", { preset: "math", kind: "reasoning" }), 50);
  assert.equal(sum(samples, "r1_requests_total"), 12.5);
  assert.equal(sum(samples, "none"), 0);
});

test("rates and quantiles are those of the time between the looks", () => {
  const now = glanceOf([{ atMs: 0, samples: metrics(100, 1000) }, { atMs: 10_000, samples: metrics(180, 5000) }]);
  assert.deepEqual([now.inFlight, now.queued, now.tokenRate, now.requestRate], [2, 1, 400, 10]);
  assert.ok(Math.abs(now.failedShare - 0.2) < 1e-9);
  assert.equal(now.ttft.p50, 0.1);
  assert.ok(Math.abs(now.ttft.p95 - 0.28) < 1e-9);
  assert.equal(quantile(metrics(5, 0), metrics(5, 0), "r1_time_to_first_token_seconds", 0.5), null);
});

test("a first look has no rates yet, and a router that began anew no negative ones", () => {
  assert.equal(glanceOf([{ atMs: 0, samples: metrics(1, 1) }]).tokenRate, null);
  const anew = glanceOf([{ atMs: 0, samples: metrics(100, 1000) }, { atMs: 2000, samples: metrics(1, 10) }]);
  assert.deepEqual([anew.tokenRate, anew.requestRate, anew.failedShare], [0, 0, null]);
});

// --- words ----------------------------------------------------------------------------------------

test("both languages say everything, with the same values", () => {
  const values = (text) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();
  for (const [name, text] of Object.entries(en)) {
    assert.ok(name in zh, name);
    assert.deepEqual(values(zh[name]), values(text), name);
  }
});
