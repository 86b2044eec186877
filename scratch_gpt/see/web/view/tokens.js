/** Tokens: how the tokenizer cuts the text, with the id and the bytes of each piece. */

import { element, replaceChildren } from "#see/view/dom.js";
import { explainButton, replaceKeepingFocus } from "#see/view/rerender.js";
import { tokenStrip } from "#see/view/token_strip.js";
import { hexadecimal, visible, visibleToken } from "#see/view/token_text.js";

export const view = {
  id: "tokens",
  title: "Tokens",
  intro:
    "A model reads no letters. A tokenizer cuts the text into pieces of its vocabulary, and the model gets " +
    "their numbers.",
  lesson: "subwords",
  build,
};

function build(root, context) {
  const { store, session } = context;
  const select = (position) => store.set({ position });
  const strip = tokenStrip("Tokens", () => session.tokenizer(), select);
  const source = tokenStrip(
    "Tokens of the source",
    () => session.model().tokenizer,
    () => {},
  );
  const sourceHeading = element("h3", {}, "Source");
  const targetHeading = element("h3", {}, "Target");
  const summary = element("p", { class: "summary" });
  const details = element("dl", { class: "details" });
  root.append(sourceHeading, source.node, targetHeading, summary, strip.node, details);

  return (state) => {
    const ids = session.ids();
    const sourceIds = session.sourceIds();
    for (const node of [sourceHeading, source.node, targetHeading]) node.hidden = sourceIds === null;
    if (sourceIds) source.update(described(session.model().tokenizer, sourceIds, sourceIds.length), null);
    strip.update(described(session.tokenizer(), ids, session.start()), state.position);
    replaceKeepingFocus(summary, summarise(context, state, sourceIds ?? ids.slice(0, session.start())));
    showDetails(details, session.tokenizer(), ids, state.position);
  };
}

function described(tokenizer, ids, start) {
  const kind = (id, position) => kindOf(tokenizer, id, position >= start);
  return ids.map((id, position) => ({ id, kind: kind(id, position), below: String(id) }));
}

function kindOf(tokenizer, id, isWritten) {
  if (isNoText(tokenizer, id)) return "special";
  return isWritten ? "written" : "";
}

/** Whether an id stands for no text: it is that of a special token, or of none. */
function isNoText(tokenizer, id) {
  return tokenizer.token(id) === undefined || tokenizer.isSpecial(id);
}

function summarise(context, state, textIds) {
  const { session } = context;
  const tokenizer = session.model().tokenizer;
  const bytes = new TextEncoder().encode(state.text).length;
  const pieces = textIds.filter((id) => !tokenizer.isSpecial(id)).length;
  const isWhole = pieces > 0 && session.ignored() === 0;
  const ratio = (bytes / pieces).toFixed(1);
  const parts = [", ", explainButton(context, "tokens-ratio", `${ratio} bytes per token`, { kind: "ratio" })];
  const special = textIds.length - pieces;
  const added = special > 0 ? ` and ${special} special ${special === 1 ? "one" : "ones"}` : "";
  const counts = `${plural(pieces, "token")}${added} for ${plural(bytes, "byte")} of text`;
  return [counts, ...(isWhole ? parts : []), `. The vocabulary has ${plural(tokenizer.size, "token")}.`];
}

function showDetails(list, tokenizer, ids, position) {
  const id = position === null ? undefined : ids[position];
  list.hidden = id === undefined;
  if (id === undefined) return;
  const spelling = tokenizer.token(id);
  const bytes = (spelling !== undefined && tokenizer.bytes(id)) || [];
  const isSpecial = spelling !== undefined && tokenizer.isSpecial(id);
  const rows = [
    ["Text", visibleToken(tokenizer, id)],
    ["Id", String(id)],
    ["Position", String(position)],
    ["In the vocabulary", spelling === undefined ? "no token has this id" : visible(spelling)],
    ["Bytes", hexadecimal(bytes) || "none"],
    ["Kind", isSpecial ? "special: it has a meaning of its own and stands for no text" : "text"],
  ];
  const row = ([name, value]) => [element("dt", {}, name), element("dd", {}, value)];
  replaceChildren(list, ...rows.flatMap(row));
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}
