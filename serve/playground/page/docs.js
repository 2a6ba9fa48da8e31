// The page at /docs: Swagger UI over the router's own OpenAPI document.

const api = await (await fetch("openapi.json")).json();
// Where the router is, behind a proxy's path too; the document can't know.
const here = new URL(".", location.href).href.replace(/\/$/, "");

/** @type {any} */ (globalThis).SwaggerUIBundle({
  spec: { ...api, servers: [{ url: here }] },
  dom_id: "#docs",
  validatorUrl: null, // else a stranger is asked what he thinks of the document
});

export {}; // to the type checker: a module
