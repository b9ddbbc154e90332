// What votes on a sheet mean: the images of one prompt, in a question {mode, sheets, votes: {row: 1 or -1}, ties: [sheet]}.
export const THUMBS = "thumbs";

export const voteOn = (question, row) => question.votes[row] ?? 0;
export const rowOf = (question, sheet, vote) => sheet.rows.find((row) => voteOn(question, row) === vote);
export const isTie = (question, sheet) => question.ties.includes(question.sheets.indexOf(sheet));
export const bothBad = (question, sheet) => canTie(question, sheet) && sheet.rows.every((row) => voteOn(question, row) === -1);
export const canTie = (question, sheet) => question.mode !== THUMBS && sheet?.rows.length === 2;

/** Whether a sheet has all the votes that it can have. */
export function judged(question, sheet) {
  if (isTie(question, sheet)) return true;
  const given = sheet.rows.filter((row) => voteOn(question, row)).length;
  return question.mode === THUMBS ? given === sheet.rows.length : given === 2;
}

/** What choosing an image means: the votes that change. */
export function choice(question, sheet, row) {
  if (question.mode === THUMBS) return { [row]: { 0: 1, 1: -1, "-1": 0 }[voteOn(question, row)] };
  const best = rowOf(question, sheet, 1);
  if (best === row) return { [row]: 0 };
  if (sheet.rows.length === 2) return { [row]: 1, [sheet.rows.find((other) => other !== row)]: -1 };
  if (best === undefined) return { [row]: 1 };
  if (rowOf(question, sheet, -1) === undefined) return { [row]: -1 };
  return { ...Object.fromEntries(sheet.rows.filter((other) => voteOn(question, other)).map((other) => [other, 0])), [row]: 1 };
}

/** Of two images, as good as each other ("tie") or both bad ("bad"): the votes that change. */
export const choiceOfBoth = (sheet, what) => Object.fromEntries(sheet.rows.map((row) => [row, what === "bad" ? -1 : 0]));
