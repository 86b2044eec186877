/** Two answers side by side as a table: before and after a change, or of two models. */

import { bar, largest } from "#see/view/charts.js";
import { element } from "#see/view/dom.js";
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
  const header = [
    column(first.title),
    column(names[0]),
    bars(),
    bars(),
    column(names[1]),
    column(first.kind === "none" ? "Change" : "Points"),
  ];
  const rows = choices.map((choice) => changeRow(context, id, first, second, choice, names));
  const table = element(
    "table",
    { class: "weights change" },
    element("thead", {}, element("tr", {}, ...header)),
    element("tbody", {}, ...rows),
  );
  return scrollRegion(id, `${first.title}: ${names[0]} and ${names[1]}`, table);
}

function changeRow(context, id, first, second, choice, names) {
  const [before, after] = [first.values[choice], second.values[choice]];
  const difference = first.writeChange(after - before);
  const kind = difference === "0" ? "same" : after < before ? "less" : "more";
  const answers = [first, second].map((each) => each.request(choice));
  const number = (index, value) =>
    explainButton(context, `${id}-${index}-${choice}`, first.write(value), answers[index]);
  const change = {
    kind: "change",
    answer: answers[0],
    before: answers[0].source,
    after: answers[1].source,
    names: names.map((name) => name.toLowerCase()),
  };
  const drawn = (value) => element("td", { class: "drawn" }, first.kind === "none" ? null : bar(value));
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, first.name(choice)),
    element("td", { class: "right" }, number(0, before)),
    drawn(before),
    drawn(after),
    element("td", { class: "right" }, number(1, after)),
    element(
      "td",
      { class: `right ${kind}` },
      explainButton(context, `${id}-change-${choice}`, difference, change),
    ),
  );
}
