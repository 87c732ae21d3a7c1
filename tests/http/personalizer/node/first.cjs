// The npm client of v1.0: ranks, rewards and activates one event; prints what it was answered.
const { ApiKeyCredentials, exponentialRetryPolicy } = require("@azure/ms-rest-js");
const { PersonalizerClient } = require("@azure/cognitiveservices-personalizer");

const [url, event, body] = process.argv.slice(2);
const key = new ApiKeyCredentials({ inHeader: { "Ocp-Apim-Subscription-Key": "none" } });
// Its own retries, with milliseconds in place of half a minute between them.
const quick = exponentialRetryPolicy(3, 10, 5, 50);
const client = new PersonalizerClient(key, url, {
  noRetryPolicy: true, requestPolicyFactories: (defaults) => [...defaults, quick],
});

async function main() {
  const answer = await client.rank({ ...JSON.parse(body), eventId: event, deferActivation: true });
  await client.events.reward(event, { value: 0.75 });
  await client.events.activate(event);
  const refused = await client.rank({ actions: [] }).catch((error) => error);
  console.log(JSON.stringify({ answer, refused: [refused.statusCode, refused.body] }));
}

main().catch((error) => { console.error(error); process.exit(1); });
