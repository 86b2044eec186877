/** The views of the page, in the order of their tabs. See `state.js` for how one is added. */

import { view as attention } from "#see/view/attention.js";
import { view as classify } from "#see/view/classify.js";
import { view as compare } from "#see/view/compare.js";
import { view as film } from "#see/view/film.js";
import { view as flow } from "#see/view/flow.js";
import { view as lens } from "#see/view/lens.js";
import { view as loss } from "#see/view/loss.js";
import { view as masked } from "#see/view/masked.js";
import { view as nextToken } from "#see/view/next_token.js";
import { view as pseudoLoss } from "#see/view/pseudo_loss.js";
import { view as tokens } from "#see/view/tokens.js";
import { view as translate } from "#see/view/translate.js";
import { view as whatIf } from "#see/view/what_if.js";

/** @type {import("#see/view/state.js").View[]} */
export const VIEWS = [
  ...[tokens, nextToken, translate, masked, classify],
  ...[flow, attention, lens, loss, pseudoLoss, whatIf, compare, film],
];
