export * from "../../../../scripts/vendor/entry.js";
