// Validates the AsyncAPI document on stdin with AsyncAPI's own parser, whose folder is the first argument.
// Prints a line for each error and warning, and exits 1 where there is one.
"use strict";

const { Parser } = require(process.argv[2]);
const { readFileSync } = require("node:fs");

const WARNING = 1; // 0: error, 1: warning, 2: information, 3: hint

new Parser().parse(readFileSync(0, "utf8")).then(({ document, diagnostics }) => {
  const found = diagnostics.filter((each) => each.severity <= WARNING);
  found.forEach((each) => console.log(`${each.code} at ${each.path.join(".")}: ${each.message}`));
  if (document) {
    const messages = document.allMessages().all().map((message) => message.id());
    console.log(JSON.stringify({ operations: document.allOperations().all().length, messages }));
  }
  process.exitCode = document && found.length === 0 ? 0 : 1;
});
