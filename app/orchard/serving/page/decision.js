// What the model's outputs amount to: sure, not sure, or unknown. The server decides by the same rules.

/**
 * Decide on one photo.
 *
 * `outputs` are arrays of 0..1: `probabilities` by label, `familiarity` (one value, if the model measures it) and
 * `kind_probabilities` (if it has kinds). Returns {answer: "sure" | "not_sure" | "unknown", label, kind, confidence, familiarity,
 * top: [{label, confidence}]}, likeliest first; label and kind are null unless the model is sure of them.
 */
export function decide({ probabilities, familiarity: [familiarity] = [1], kind_probabilities: shares }, about, top) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const best = order.slice(0, top).map((index) => ({ label: about.labels[index], confidence: probabilities[index] }));
  const [{ label, confidence }] = best;
  const found = { answer: "not_sure", label: null, kind: null, confidence, familiarity, top: best };
  if (familiarity < about.familiarity_threshold) return { ...found, answer: "unknown" };
  if (confidence >= about.threshold) return { ...found, answer: "sure", label, kind: about.kinds?.of_label[order[0]] ?? null };
  if (!about.kinds) return found;
  const likeliest = shares.indexOf(Math.max(...shares));
  return shares[likeliest] >= about.kinds.threshold ? { ...found, kind: about.kinds.names[likeliest] } : found;
}
