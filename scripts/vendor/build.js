// Writes the playground's libraries: one module, KaTeX's style with its fonts, and the licences.
//
//     node build.js FOLDER

import { build } from "esbuild";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

const [, , out] = process.argv;
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

// To the type checker the bundle is what it was made of.
await writeFile(join(out, "vendor.d.ts"), 'export * from "../../../../scripts/vendor/entry.js";\n');

const { dependencies } = JSON.parse(await readFile(join(here, "package.json"), "utf8"));
const names = [...Object.keys(dependencies), "@preact/signals-core"].sort();
const licences = await Promise.all(names.map(licence));
await writeFile(join(out, "LICENSES.txt"), licences.join("\n\n"));

async function licence(name) {
  const folder = join(modules, name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((it) => /^licen[cs]e/i.test(it));
  const text = file ? await readFile(join(folder, file), "utf8") : "";
  return `==== ${name} ${version} (${license}) ====\n\n${text.trim()}\n`;
}
