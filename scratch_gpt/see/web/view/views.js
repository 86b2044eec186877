/** The views of the page, in the order of their tabs. See `state.js` for how one is added. */

import { view as nextToken } from "#see/view/next_token.js";
import { view as tokens } from "#see/view/tokens.js";

/** @type {import("#see/view/state.js").View[]} */
export const VIEWS = [tokens, nextToken];
