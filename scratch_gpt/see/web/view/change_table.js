/** Two answers side by side as a table: before and after a change, or of two models. */

import { bar, largest, percent } from "#see/view/charts.js";
import { element } from "#see/view/dom.js";
import { points } from "#see/view/numbers.js";
import { unionOfBest } from "#see/view/outcomes.js";
import { explainButton, scrollRegion } from "#see/view/rerender.js";

const SHOWN = 6; // choices of each answer

/**
 * @param {object} context - of a view
 * @param {string} id
 * @param {object} first - from `outcome`
 * @param {object} second - from `outcome`
 * @param {[string, string]} names - of the two columns
 * @returns {HTMLElement}
 */
export function changeTable(context, id, first, second, names) {
  const best = [first, second].map(({ values }) => largest(values, SHOWN));
  const choices = unionOfBest(first.values, second.values, ...best).slice(0, SHOWN + 2);
  const column = (text) =>
    element("th", { scope: "col", class: text === first.title ? null : "right" }, text);
  const bars = () => element("td", { class: "drawn" });
  const header = [column(first.title), column(names[0]), bars(), bars(), column(names[1]), column("Points")];
  const rows = choices.map((choice) => changeRow(context, id, first, second, choice));
  const table = element(
    "table",
    { class: "weights change" },
    element("thead", {}, element("tr", {}, ...header)),
    element("tbody", {}, ...rows),
  );
  return scrollRegion(id, `${first.title}: ${names[0]} and ${names[1]}`, table);
}

function changeRow(context, id, first, second, choice) {
  const [before, after] = [first.values[choice], second.values[choice]];
  const difference = points(after - before);
  const kind = difference === "0" ? "same" : after < before ? "less" : "more";
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, first.name(choice)),
    element(
      "td",
      { class: "right" },
      explainButton(context, `${id}-${choice}`, percent(before), first.request(choice)),
    ),
    element("td", { class: "drawn" }, bar(before)),
    element("td", { class: "drawn" }, bar(after)),
    element("td", { class: "right" }, percent(after)),
    element("td", { class: `right ${kind}` }, difference),
  );
}
