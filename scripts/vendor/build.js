// Writes the pages' libraries: the playground's as one module, KaTeX's style with its fonts, Swagger UI
// for /docs, and the licences.
//
//     node build.js FOLDER

import { build } from "esbuild";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

const [, , out] = process.argv;
// Swagger UI's bundle has a list of its own, of what it is made of.
const LICENCE = /^(licen[cs]e|notice)|^swagger-ui-bundle\.js\.license/i;
const here = import.meta.dirname;
const modules = join(here, "node_modules");

await rm(out, { recursive: true, force: true });
await mkdir(join(out, "fonts"), { recursive: true });
await build({
  entryPoints: [join(here, "entry.js")],
  outfile: join(out, "vendor.js"),
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
});

// Every browser that can run the module reads WOFF2.
const katex = join(modules, "katex", "dist");
const css = await readFile(join(katex, "katex.min.css"), "utf8");
await writeFile(join(out, "katex.css"), css.replace(/,url\([^)]*\.(woff|ttf)\) format\("\w+"\)/g, "") + "\n");
for (const name of await readdir(join(katex, "fonts"))) {
  if (name.endsWith(".woff2")) await cp(join(katex, "fonts", name), join(out, "fonts", name));
}

// Swagger UI as it comes, but for the address of a source map.
const swagger = join(modules, "swagger-ui-dist");
for (const name of ["swagger-ui-bundle.js", "swagger-ui.css"]) {
  const text = await readFile(join(swagger, name), "utf8");
  await writeFile(join(out, name), text.replace(/\s*\/\*# sourceMappingURL=.*\s*$/, "\n"));
}

// To the type checker the bundle is what it was made of.
await writeFile(join(out, "vendor.d.ts"), 'export * from "../../../../scripts/vendor/entry.js";\n');

const { dependencies } = JSON.parse(await readFile(join(here, "package.json"), "utf8"));
const names = [...Object.keys(dependencies), "@preact/signals-core"].sort();
const licences = await Promise.all(names.map(licence));
await writeFile(join(out, "LICENSES.txt"), licences.join("\n\n"));

async function licence(name) {
  const folder = join(modules, name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const files = (await readdir(folder)).filter((it) => LICENCE.test(it)).sort();
  const texts = await Promise.all(files.map((it) => readFile(join(folder, it), "utf8")));
  const text = texts.map((it) => it.trim()).join("\n\n");
  return `==== ${name} ${version} (${license}) ====\n\n${text}\n`;
}
