/**
 * Where the boxes of an architecture stand: coordinates for flow.js, without a document.
 *
 * The residual stream is a vertical line on the left. Branches leave it to the right, pass through their
 * boxes, and come back to a plus sign on it.
 *
 * @typedef {object} Placed
 * @property {object} box - of flow_model.js
 * @property {number} x
 * @property {number} y
 * @property {number} width
 * @property {number} height
 * @property {number | null} layer
 *
 * @typedef {object} Layout
 * @property {number} width
 * @property {number} height
 * @property {Placed[]} boxes
 * @property {{y: number}[]} sums - plus signs on the stream
 * @property {string[]} arrows - data of SVG paths
 * @property {{from: number, to: number, state: number}[]} stream - pieces of the residual stream; `state` 0
 *   is the embedding, n the output of block n
 * @property {{layer: number, y: number, height: number, isOpen: boolean}[]} frames - of the blocks
 * @property {{x: number, y: number, layer: number, output: string}[]} additions - where the size of what a
 *   branch adds stands; `output` is its name in the trace
 */

export const WIDTH = 344;
export const STREAM = 66; // x of the residual stream
const [BOX_LEFT, BOX_RIGHT] = [122, WIDTH - 10];
const GAP = 12;
const RETURN = 20; // from the last box of a branch down to its way back to the stream
const MAX_OPEN = 4; // blocks that are all drawn in detail
const PARALLEL_LEFT = 98; // two boxes side by side get more room
const NARROW_CHARACTERS = 17; // in a line of a narrow box

/**
 * Lay out a stack.
 *
 * @param {object} stack - of flow_model.js
 * @param {number} openLayer - the block that is drawn in detail if there are many
 * @returns {Layout}
 */
export function layoutStack(stack, openLayer) {
  const layout = {
    width: WIDTH,
    height: 0,
    boxes: [],
    sums: [],
    arrows: [],
    stream: [],
    frames: [],
    additions: [],
  };
  let y = 6;
  const isStreamless = stack.blocks.length === 0;
  for (const box of stack.before) {
    y = placeBox(layout, box, { x: 10, y, width: WIDTH - 20 }, null);
    layout.arrows.push(`M${STREAM} ${y}V${(y += GAP)}`);
  }
  stack.blocks.forEach((branches, layer) => {
    const isOpen = stack.blocks.length <= MAX_OPEN || layer === openLayer;
    const start = y;
    y = isOpen ? placeBlock(layout, branches, layer, y + 26) + 10 : y + 40;
    layout.stream.push(...streamPieces(layout, start, y, layer));
    layout.frames.push({ layer, y: start + 2, height: y - start - 4, isOpen });
  });
  const first = y;
  y += isStreamless ? 0 : 22;
  if (!isStreamless) layout.stream.push({ from: first, to: y, state: stack.blocks.length });
  stack.after.forEach((box, index) => {
    if (index > 0) layout.arrows.push(`M${STREAM} ${y}V${(y += GAP)}`);
    y = placeBox(layout, box, { x: 10, y, width: WIDTH - 20 }, stack.blocks.length);
  });
  layout.height = y + 6;
  return layout;
}

/** The stream inside a block has the size of its input up to the last sum, then that of its output. */
function streamPieces(layout, from, to, layer) {
  const last = layout.sums.filter(({ y }) => y > from).at(-1)?.y ?? from;
  const middle = last === from ? to : last;
  const pieces = [{ from, to: middle, state: layer }];
  if (middle < to) pieces.push({ from: middle, to, state: layer + 1 });
  return pieces;
}

/**
 * @param {object} box
 * @returns {number} its height
 */
export function boxHeight({ lines }) {
  return 27 + 15 * lines.length;
}

function placeBox(layout, box, { x, y, width }, layer) {
  const height = boxHeight(box);
  layout.boxes.push({ box, x, y, width, height, layer });
  return y + height;
}

function placeBlock(layout, branches, layer, y) {
  for (const branch of branches) {
    y =
      branch.columns.length > 1
        ? placeParallel(layout, branch, layer, y)
        : placeBranch(layout, branch, layer, y);
    if (branch.normAfter) {
      layout.arrows.push(`M${STREAM} ${y}V${y + GAP}`);
      y = placeBox(layout, branch.normAfter, { x: STREAM - 56, y: y + GAP, width: 112 }, layer);
    }
    y += 10;
  }
  return y;
}

/** One column of boxes, from the stream and back to it. */
function placeBranch(layout, { columns: [boxes] }, layer, y) {
  const width = BOX_RIGHT - BOX_LEFT;
  const middle = BOX_LEFT + width / 2;
  layout.arrows.push(`M${STREAM} ${y}H${middle - 6}Q${middle} ${y} ${middle} ${y + 6}V${y + GAP}`);
  const end = placeColumn(layout, boxes, layer, BOX_LEFT, width, y + GAP);
  layout.arrows.push(
    `M${middle} ${end}V${end + RETURN - 6}Q${middle} ${end + RETURN} ${middle - 6} ` +
      `${end + RETURN}H${STREAM + 11}`,
  );
  layout.sums.push({ y: end + RETURN });
  layout.additions.push({ x: BOX_LEFT + 4, y: end + RETURN - 5, layer, output: outputName(boxes) });
  return end + RETURN;
}

/** Attention and feed-forward network side by side: both read the same states, and both outputs are added. */
function placeParallel(layout, { columns, shared }, layer, y) {
  const width = (BOX_RIGHT - PARALLEL_LEFT - 8) / 2;
  const lefts = [PARALLEL_LEFT, PARALLEL_LEFT + width + 8];
  const middle = (PARALLEL_LEFT + BOX_RIGHT) / 2;
  let start = y;
  if (shared) {
    layout.arrows.push(`M${STREAM} ${y}H${middle - 6}Q${middle} ${y} ${middle} ${y + 6}V${y + GAP}`);
    start = placeBox(
      layout,
      shared,
      { x: PARALLEL_LEFT, y: y + GAP, width: BOX_RIGHT - PARALLEL_LEFT },
      layer,
    );
  }
  const ends = columns.map((boxes, index) => {
    const center = lefts[index] + width / 2;
    layout.arrows.push(
      shared
        ? `M${center} ${start}V${start + GAP}`
        : `M${STREAM} ${y}H${center - 6}Q${center} ${y} ${center} ${y + 6}V${y + GAP}`,
    );
    const narrow = boxes.map((box) => ({ ...box, lines: box.lines.flatMap(wrapped) }));
    return placeColumn(layout, narrow, layer, lefts[index], width, start + GAP);
  });
  const end = Math.max(...ends) + GAP + 2;
  columns.forEach((boxes, index) => {
    const center = lefts[index] + width / 2;
    layout.arrows.push(
      `M${center} ${ends[index]}V${end - 6}Q${center} ${end} ${center - 6} ${end}H${STREAM + 11}`,
    );
  });
  layout.sums.push({ y: end });
  return end;
}

/**
 * A line in pieces that fit into a narrow box.
 *
 * @param {string} line
 * @returns {string[]}
 */
export function wrapped(line) {
  const pieces = [];
  for (const word of line.split(" ")) {
    const longer = pieces.length > 0 ? `${pieces.at(-1)} ${word}` : word;
    if (pieces.length > 0 && longer.length <= NARROW_CHARACTERS) pieces[pieces.length - 1] = longer;
    else pieces.push(word);
  }
  return pieces;
}

function placeColumn(layout, boxes, layer, x, width, y) {
  boxes.forEach((box, index) => {
    if (index > 0) layout.arrows.push(`M${x + width / 2} ${y}V${(y += GAP)}`);
    y = placeBox(layout, box, { x, y, width }, layer);
  });
  return y;
}

/** Name in the trace of what a branch adds to the stream. */
function outputName(boxes) {
  const main = boxes.find(({ kind }) => kind !== "norm");
  if (main.kind !== "attention") return "mlpOutput";
  return main.map === "cross" ? "crossAttentionOutput" : "attentionOutput";
}
