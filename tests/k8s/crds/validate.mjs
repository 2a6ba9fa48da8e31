// Validates what objects.json lists by the packages' own validators, which know formats and patterns
// but let unknown fields pass: those are the compiler's, by the packages' types (tests/k8s/check.py).
import { readFile } from "node:fs/promises";

const listed = JSON.parse(await readFile("objects.json", "utf8"));
for (const { module, label, object } of listed) {
  const model = (await import(module))[object.kind];
  try {
    new model(object).validate();
  } catch (error) {
    console.log(`${label}: ${error.message}`);
    process.exitCode = 1;
  }
}
