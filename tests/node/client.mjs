// The official `openai` package asks a live server. Usage: node client.mjs TOPIC; the server is named by the environment.
// Exits with 0 if every answer is as the API says; what the model says is set by test_client.py.

import assert from "node:assert/strict";
import OpenAI from "openai";

const model = process.env.ECOCORE_TEST_MODEL;
const client = new OpenAI({
  baseURL: process.env.ECOCORE_TEST_URL,
  apiKey: process.env.ECOCORE_TEST_KEY,
  maxRetries: 0,
});
const messages = [{ role: "user", content: "hello" }];
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather of a city.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

const topics = {
  async chat() {
    const { data, response, request_id } = await client.chat.completions.create({ model, messages }).withResponse();
    assert.equal(data.choices[0].message.content, "Grüße 😀");
    assert.equal(data.choices[0].message.role, "assistant");
    assert.equal(data.choices[0].finish_reason, "stop");
    assert.equal(data.model, model);
    assert.equal(data.usage.total_tokens, data.usage.prompt_tokens + data.usage.completion_tokens);
    assert.equal(response.headers.get("x-request-id"), request_id);
    const page = await client.models.list();
    assert.deepEqual(page.data.map((one) => one.id), [model]);
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async stream() {
    const stream = await client.chat.completions.create({
      model,
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage = null;
    const reasons = [];
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, "Grüße 😀");
    assert.deepEqual(reasons, ["stop"]);
    assert.equal(usage.completion_tokens, new TextEncoder().encode(text).length + 1);

    const left = await client.chat.completions.create({ model, messages, stream: true });
    for await (const chunk of left) {
      assert.equal(chunk.choices[0].delta.role, "assistant");
      break;
    }
  },

  async tools() {
    for (const tool_choice of ["auto", "required"]) {
      const asked = { model, messages, tools, tool_choice };
      const plain = (await client.chat.completions.create(asked)).choices[0];
      assert.equal(plain.finish_reason, "tool_calls");
      assert.equal(plain.message.content, null);
      assert.equal(plain.message.tool_calls.length, 1);
      assert.equal(plain.message.tool_calls[0].function.name, "get_weather");
      assert.deepEqual(JSON.parse(plain.message.tool_calls[0].function.arguments), { city: "Paris" });

      // The client's own accumulator is stricter about deltas than a loop would be.
      const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
      assert.equal(streamed.choices[0].finish_reason, "tool_calls");
      assert.deepEqual(
        streamed.choices[0].message.tool_calls.map((call) => [call.type, call.function.name, call.function.arguments]),
        plain.message.tool_calls.map((call) => [call.type, call.function.name, call.function.arguments]),
      );
    }
    const call = { id: "call_1", type: "function", function: { name: "get_weather", arguments: '{"city":"Paris"}' } };
    const history = [
      ...messages,
      { role: "assistant", content: null, tool_calls: [call] },
      { role: "tool", tool_call_id: "call_1", content: "sunny" },
    ];
    assert.ok((await client.chat.completions.create({ model, messages: history, max_tokens: 3 })).choices[0].message.content);
  },

  async json() {
    const formats = [
      { type: "json_object" },
      {
        type: "json_schema",
        json_schema: {
          name: "summary",
          strict: true,
          schema: {
            type: "object",
            properties: { summary: { type: "string" } },
            required: ["summary"],
            additionalProperties: false,
          },
        },
      },
    ];
    for (const response_format of formats) {
      const asked = { model, messages, response_format };
      const plain = (await client.chat.completions.create(asked)).choices[0];
      assert.equal(plain.finish_reason, "stop");
      assert.deepEqual(JSON.parse(plain.message.content), { summary: "two are one" });
      const streamed = await client.chat.completions.stream(asked).finalContent();
      assert.equal(streamed, plain.message.content);
    }
  },

  async errors() {
    const ask = (fields) => client.chat.completions.create({ model, messages, ...fields });
    await assert.rejects(ask({ temperature: 3 }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, "temperature");
      assert.equal(error.type, "invalid_request_error");
      assert.equal(typeof error.code, "string");
      assert.ok(error.requestID);
      return true;
    });
    await assert.rejects(ask({ model: "nobody" }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, "model_not_found");
      return true;
    });
    await assert.rejects(ask({ stream: true, stop: "" }), OpenAI.BadRequestError);
    const stranger = client.withOptions({ apiKey: "eco_wrong" });
    await assert.rejects(stranger.models.list(), (error) => {
      assert.ok(error instanceof OpenAI.AuthenticationError);
      assert.equal(error.code, "invalid_api_key");
      return true;
    });
  },
};

await topics[process.argv[2]]();
