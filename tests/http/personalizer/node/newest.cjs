// The npm client of v1.1-preview.3: an event, its slots, the configuration; prints the answers.
const { AzureKeyCredential } = require("@azure/core-auth");
const createClient = require("@azure-rest/ai-personalizer").default;

const [url, event, body, slots] = process.argv.slice(2);
const client = createClient(url, new AzureKeyCredential("none"), {
  allowInsecureConnection: true, retryOptions: { maxRetryDelayInMs: 10, retryDelayInMs: 1 },
});

async function call(method, expected, path, parameters, content) {
  const request = client.path(path, ...parameters);
  const answer = await request[method](content === undefined ? {} : { body: content });
  if (answer.status !== expected) throw new Error(`${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
}

async function main() {
  const asked = { ...JSON.parse(body), eventId: event };
  const answer = await call("post", "201", "/rank", [], asked);
  await call("post", "204", "/events/{eventId}/reward", [event], { value: 0.5 });
  await call("post", "204", "/events/{eventId}/activate", [event]);
  const several = await call("post", "201", "/multislot/rank", [], { ...asked, slots: JSON.parse(slots) });
  const reward = { reward: [{ slotId: "top", value: 1 }] };
  await call("post", "204", "/multislot/events/{eventId}/reward", [event], reward);
  await call("post", "204", "/multislot/events/{eventId}/activate", [event]);
  const service = await call("get", "200", "/configurations/service", []);
  const written = await call("put", "200", "/configurations/service", [], service);
  const refused = await client.path("/rank").post({ body: { actions: [] } });
  console.log(JSON.stringify({ answer, several, service, written, refused: [refused.status, refused.body] }));
}

main().catch((error) => { console.error(error); process.exit(1); });
