// Checks the OpenAPI document on standard input by Redocly's strict rules and a few more.
import { text } from "node:stream/consumers";
import { createConfig, formatProblems, getTotals, lintFromString } from "@redocly/openapi-core";

const config = await createConfig({
  extends: ["recommended-strict"],
  rules: {
    "operation-description": "error",
    "operation-singular-tag": "error",
    "parameter-description": "error",
    "no-invalid-schema-examples": "error",
    "no-invalid-parameter-examples": "error",
    "no-http-verbs-in-paths": "error",
  },
});
const problems = await lintFromString({ source: await text(process.stdin), config });
const totals = getTotals(problems);
if (totals.errors + totals.warnings > 0) {
  formatProblems(problems, { format: "codeframe", totals, version: "" });
  process.exit(1);
}
