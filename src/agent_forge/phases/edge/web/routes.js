/**
 * The first pass of a design with routes, as `agent_forge.agent.routes`: the question is read once by the model as it
 * is, and a linear classifier says of what kind it is.
 */

const LONGEST = 192; // tokens; of a longer question the end is read

/**
 * How to go about a question: the row of its kind, else the outer row.
 * @param {Agent} agent
 * @param {{routes?: Object<string, object>}} design of page.json.
 * @param {{classes: string[], weight: number[][], bias: number[]}|null} classifier needed for a design with routes.
 * @param {string} question
 */
export async function rowFor(agent, design, classifier, question) {
  const routes = new Map(Object.entries(design.routes ?? {}));
  if (routes.size === 0) return design;
  const ids = agent.prompt([{ role: "user", content: question, ids: null }]).slice(-LONGEST);
  return routes.get(kindOf(classifier, await agent.graph.features(ids))) ?? design;
}

/** The class with the highest score, the first of equals. */
export function kindOf({ classes, weight, bias }, features) {
  const scores = weight.map((row, place) => row.reduce((sum, each, n) => sum + each * features[n], bias[place]));
  return classes[scores.indexOf(Math.max(...scores))];
}
