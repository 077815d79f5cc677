// Renders /openapi.json: every endpoint with its schemas, and a form to try it. Text from the document or from an answer
// is only ever set as text, never as markup. The key stays in this page and is forgotten with it.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];

/** An element with properties and children; strings become text. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** The schema that a reference names, or the schema itself. */
function resolve(spec, schema) {
  const name = schema.$ref && schema.$ref.split("/").pop();
  return name ? { ...spec.components.schemas[name], name } : schema;
}

/** The alternatives of a schema that are not null. */
function alternatives(schema) {
  return (schema.anyOf || schema.oneOf || [schema]).filter((one) => one.type !== "null");
}

/** A schema in a few words: its type and its bounds. */
function inWords(spec, schema) {
  const choices = alternatives(schema);
  if (choices.length > 1) return [...new Set(choices.map((one) => inWords(spec, one)))].join(" or ");
  const one = resolve(spec, choices[0] || schema);
  if (one.anyOf || one.oneOf) return inWords(spec, one);
  if (one.enum) return one.enum.map((value) => JSON.stringify(value)).join(", ");
  if (one.const !== undefined) return JSON.stringify(one.const);
  if (one.type === "array") return "array of " + (one.items ? inWords(spec, one.items) : "anything");
  const bounds = [];
  if (one.minimum !== undefined) bounds.push("from " + one.minimum);
  if (one.exclusiveMinimum !== undefined) bounds.push("above " + one.exclusiveMinimum);
  if (one.maximum !== undefined) bounds.push("to " + one.maximum);
  if (one.maxLength !== undefined) bounds.push("at most " + one.maxLength + " characters");
  return [one.name || one.type || "anything", ...bounds].join(" ");
}

/** The objects below a schema, whose members can be shown. */
function objectsOf(spec, schema) {
  return alternatives(schema).flatMap((choice) => {
    const one = resolve(spec, choice);
    if (one.anyOf || one.oneOf) return objectsOf(spec, one);
    if (one.type === "array" && one.items) return objectsOf(spec, one.items);
    return one.properties ? [one] : [];
  });
}

/** One member. What is below it is made when it is opened: schemas may hold themselves. */
function member(spec, name, schema, required) {
  const line = [
    make("code", { textContent: name }),
    make("span", { className: "soft", textContent: " " + inWords(spec, schema) }),
    required ? make("strong", { textContent: " required" }) : null,
    schema.default !== undefined ? make("span", { className: "soft", textContent: ", default " + JSON.stringify(schema.default) }) : null,
  ];
  const below = objectsOf(spec, schema);
  if (!below.length) return make("li", {}, ...line);
  const details = make("details", {}, make("summary", {}, ...line));
  details.addEventListener("toggle", () => below.forEach((one) => details.append(members(spec, one))), { once: true });
  return make("li", {}, details);
}

/** All members of an object schema. */
function members(spec, schema) {
  const list = make("ul", { className: "schema" });
  if (schema.description) list.append(make("li", { className: "soft", textContent: schema.description }));
  for (const [name, value] of Object.entries(schema.properties || {})) {
    list.append(member(spec, name, value, (schema.required || []).includes(name)));
  }
  return list;
}

/** Everything about a body or an answer, by its media type. */
function contents(spec, title, content) {
  return Object.entries(content || {}).flatMap(([media, { schema }]) => [
    make("h3", {}, title + " ", make("code", { className: "soft", textContent: media })),
    ...(schema ? objectsOf(spec, schema).map((one) => members(spec, one)) : []),
    ...(schema && schema.description ? [make("p", { textContent: schema.description })] : []),
  ]);
}

/** The form that sends a request and shows what comes back, as it comes. */
function form(path, method, operation, parameters) {
  const body = operation.requestBody && operation.requestBody.content["application/json"];
  const text = body ? make("textarea", { value: JSON.stringify(body.example, null, 2), spellcheck: false }) : null;
  const fields = parameters.map((parameter) => ({ name: parameter.name, input: make("input", { placeholder: parameter.name }) }));
  const button = make("button", { textContent: "Send" });
  const shown = make("pre", { hidden: true });

  async function send() {
    const place = fields.reduce((url, field) => url.replace(`{${field.name}}`, encodeURIComponent(field.input.value)), path);
    const headers = {};
    const key = document.getElementById("key").value.trim();
    if (key && operation.security.length) headers.Authorization = "Bearer " + key;
    if (text) headers["Content-Type"] = "application/json";
    const model = document.getElementById("model").value.trim() || "MODEL";
    const sent = text ? text.value.replace('"MODEL"', () => JSON.stringify(model)) : undefined;
    const begun = performance.now();
    const answer = await fetch(place, { method: method.toUpperCase(), headers, body: sent });
    shown.textContent = `${answer.status} ${answer.statusText}\nx-request-id: ${answer.headers.get("x-request-id")}\n\n`;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let whole = "";
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      whole += piece.value;
      shown.append(piece.value);
    }
    if ((answer.headers.get("content-type") || "").startsWith("application/json")) {
      shown.lastChild && shown.replaceChildren(shown.firstChild, JSON.stringify(JSON.parse(whole), null, 2));
    }
    shown.append(`\n\n${Math.round(performance.now() - begun)} ms`);
  }

  button.addEventListener("click", async () => {
    button.disabled = true;
    shown.hidden = false;
    shown.textContent = "...";
    try {
      await send();
    } catch (error) {
      shown.append("\n" + error);
    }
    button.disabled = false;
  });
  return make("div", {}, make("h3", { textContent: "Try it" }), ...fields.map((field) => field.input), text, make("p", {}, button), shown);
}

/** One operation, filled when it is opened. */
function operationOf(spec, path, method, item) {
  const operation = item[method];
  const details = make(
    "details",
    { className: "operation", id: method + path.replace(/[^A-Za-z0-9]+/g, "-") },
    make(
      "summary",
      {},
      make("span", { className: "method", textContent: method.toUpperCase() }),
      make("code", { textContent: path }),
      make("span", { textContent: operation.summary }),
      make("span", { className: "soft", textContent: operation.security.length ? "needs a key" : "" }),
    ),
  );
  details.addEventListener(
    "toggle",
    () => {
      const body = operation.requestBody ? contents(spec, "Request", operation.requestBody.content) : [];
      const answer = contents(spec, "Answer", operation.responses["200"].content);
      const errors = contents(spec, "Errors", operation.responses.default.content);
      details.append(make("div", {}, ...body, ...answer, ...errors, form(path, method, operation, item.parameters || [])));
    },
    { once: true },
  );
  return details;
}

/** Offers the names of the models once a key is there. */
async function offerModels() {
  const key = document.getElementById("key").value.trim();
  const answer = await fetch("/v1/models", { headers: { Authorization: "Bearer " + key } });
  if (!answer.ok) return;
  const names = (await answer.json()).data.map((model) => model.id);
  document.getElementById("models").replaceChildren(...names.map((value) => make("option", { value })));
  const chosen = document.getElementById("model");
  if (!chosen.value && names.length) chosen.value = names[0];
}

async function start() {
  const spec = await (await fetch("/openapi.json")).json();
  const shown = Object.entries(spec.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => operationOf(spec, path, method, item)),
  );
  document.getElementById("operations").replaceChildren(make("p", { textContent: spec.info.description }), ...shown);
  document.getElementById("key").addEventListener("change", offerModels);
}

start().catch((error) => {
  document.getElementById("operations").textContent = "The description could not be read: " + error;
});
