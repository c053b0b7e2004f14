// What the model's outputs amount to: sure, not sure, or unknown. The server decides by the same rules.

/**
 * Decide on one photo.
 *
 * `outputs` are arrays of 0..1: `probabilities` by label and, where the model has them, `familiarity` (one value) and
 * `kind_probabilities`. Returns {answer: "sure" | "not_sure" | "unknown", label, kind, confidence, familiarity,
 * top: [{label, confidence}]}, likeliest first; label and kind are null unless the model is sure of them.
 */
export function decide({ probabilities, familiarity, kind_probabilities: kinds }, about, top) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const best = order.slice(0, top).map((index) => ({ label: about.labels[index], confidence: probabilities[index] }));
  const confidence = best[0].confidence;
  const found = { answer: "not_sure", label: null, kind: null, confidence, familiarity: familiarity?.[0], top: best };
  if (familiarity && familiarity[0] < about.familiarity_threshold) return { ...found, answer: "unknown" };
  if (kinds && about.kinds) {
    const likeliest = kinds.indexOf(Math.max(...kinds));
    if (kinds[likeliest] >= about.kinds.threshold) found.kind = about.kinds.names[likeliest];
  }
  return confidence >= about.threshold ? { ...found, answer: "sure", label: best[0].label } : found;
}
