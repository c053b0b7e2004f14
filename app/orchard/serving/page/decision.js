// What the model's outputs amount to: sure, not sure, or unknown. The server decides by the same rules.

/**
 * Decide on one photo.
 *
 * `outputs` are arrays of 0..1: `probabilities` by label, `familiarity` (one value, if the model measures it),
 * `kind_probabilities` (if it has kinds), and one for each further column. Returns {answer: "sure" | "not_sure" | "unknown", label,
 * kind, confidence, familiarity, top: [{label, confidence}], columns: {name: {value, likeliest, confidence}}}, likeliest first; label,
 * kind and values are null unless the model is sure of them.
 */
export function decide(outputs, about, top) {
  const found = answer(outputs, about, top);
  const columns = (about.columns ?? []).map(({ name, output, values, threshold }) => {
    const confidence = Math.max(...outputs[output]);
    const likeliest = values[outputs[output].indexOf(confidence)];
    return [name, { value: found.answer !== "unknown" && confidence >= threshold ? likeliest : null, likeliest, confidence }];
  });
  return { ...found, columns: Object.fromEntries(columns) };
}

function answer({ probabilities, familiarity: [familiarity] = [1], kind_probabilities: shares }, about, top) {
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
