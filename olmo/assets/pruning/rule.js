"use strict";
// The budget of olmo/token_budget.py and the selection of olmo/nn/token_pruning.py, in the browser.

/** Tokens to remove from one video: a float32 product, truncated; the first frame stays whole. */
function removedTokens(nFrames, cellsPerFrame, topk, pruneFromFrame) {
  const share = Math.fround(cellsPerFrame * topk);
  const budget = Math.trunc(Math.fround(share * Math.fround(nFrames - pruneFromFrame)));
  return Math.min(Math.max(budget, 0), cellsPerFrame * Math.max(nFrames - 1, 0));
}

/**
 * Kept cells (1) of all frames. The nRemove lowest of the float32 `scores` go, the first frame is
 * never touched; of equal scores the earlier cell goes first, or with `spreadTies` one here and one
 * there over the whole video.
 */
function keptCells(scores, nFrames, cellsPerFrame, nRemove, spreadTies) {
  const keep = new Uint8Array(nFrames * cellsPerFrame).fill(1);
  const order = removalOrder(scores, cellsPerFrame, spreadTies);
  for (const cell of order.subarray(0, nRemove)) keep[cell] = 0;
  return keep;
}

/** Cells behind the first frame, in the order in which they leave. */
function removalOrder(scores, cellsPerFrame, spreadTies) {
  const order = new Uint32Array(scores.length - cellsPerFrame).map((_, i) => cellsPerFrame + i);
  const place = (cell) => {
    if (!spreadTies) return cell;
    const frame = Math.floor(cell / cellsPerFrame) - 1;
    return (Math.imul(frame, 0x9e3779b1) + Math.imul(cell % cellsPerFrame, 0x6a09e667)) >>> 0;
  };
  return order.sort((a, b) => scores[a] - scores[b] || place(a) - place(b) || a - b);
}

/** float32 values from base64, little endian. */
function decodeScores(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** What the video `data` of this page keeps at `topk`; `scores` null: nothing was scored. */
function selectAt(data, topk) {
  const { frames, cells } = data;
  const nRemove = removedTokens(frames, cells, topk, data.pruneFromFrame);
  const level = nRemove ? data.levels.find((one) => one.maxRemove >= nRemove) : null;
  const scores = level ? level.scores : null;
  const keep = scores
    ? keptCells(scores, frames, cells, nRemove, data.spreadTies)
    : new Uint8Array(frames * cells).fill(1);
  return { nRemove, keep, scores };
}
