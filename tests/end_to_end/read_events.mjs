// Reads entity events (a line of JSON each) on stdin as a JavaScript consumer does, and cuts every entity out of its
// text by the UTF-16 offsets. Prints {"events", "entities", "raw", "wrong": [...]}, and exits 1 where one is wrong.
import { readFileSync } from "node:fs";

const lines = readFileSync(0, "utf8").split("\n").filter((line) => line !== "");
const wrong = [];
let entities = 0;
let raw = 0;

for (const line of lines) {
  const event = JSON.parse(line);
  for (const entity of event.entities) {
    if (event.text !== undefined) {
      entities += 1;
      const cut = event.text.slice(entity.start_utf16, entity.end_utf16);
      if (cut !== entity.text) wrong.push({ id: event.id, cut, text: entity.text });
    }
    if (entity.raw !== undefined && event.raw_text !== undefined) {
      raw += 1;
      const cut = event.raw_text.slice(entity.raw.start_utf16, entity.raw.end_utf16);
      if (shown(cut) !== entity.text) wrong.push({ id: event.id, cut, text: entity.text, raw: true });
    }
  }
}

console.log(JSON.stringify({ events: lines.length, entities, raw, wrong }));
process.exitCode = wrong.length === 0 ? 0 : 1;

// What Twitter's API escapes, it escapes once: one pass turns it back.
function shown(text) {
  const escapes = { "&amp;": "&", "&lt;": "<", "&gt;": ">" };
  return text.replace(/&(?:amp|lt|gt);/g, (found) => escapes[found]);
}
