// Plays scenes with the built client: `node conformance/play.mjs SCENES.json` prints the outcomes.
// The format of scenes and outcomes is described in tests/conformance/scenes.py of the project.
import { readFileSync } from "node:fs";
import {
  BanditClient, BanditError, PreconditionFailed, QueueClosed, QueueFull, Rejected, RewardQueue,
  ServiceUnavailable, Undelivered,
} from "../dist/index.js";

const SIDE_BY_SIDE = 4; // scenes whose server is not killed

/** Calls by the names of scenes: (client, arguments) -> promise. */
const CALLS = {
  select: (c, { fallback, within_s, ...request }) =>
    c.select(request, { ...optional("fallback", fallback), ...limit(within_s) }),
  select_batch: (c, a) => c.selectBatch(a.requests),
  reward: (c, a) => c.reward(a),
  reward_batch: (c, a) => c.rewardBatch(a.reports),
  check_rewards: (c, a) => c.checkRewards(a.reports),
  activate: (c, a) => c.activate(a.decision_id),
  score: (c, { bandit, ...request }) => c.score(bandit, request),
  explain: async (c, a) => {
    const found = await c.explain(a.bandit, a.decision_id);
    return { ...found, explained: found.explained === "yes" };
  },
  void_rewards: (c, { bandit, ...request }) => c.voidRewards(bandit, request),
  correct_reward: (c, { bandit, ...request }) => c.correctReward(bandit, request),
  put_bandit: (c, a) => c.putBandit(a.bandit, a.spec, { ...optional("wait", a.wait), ...conditions(a) }),
  plan_bandit: (c, a) => c.planBandit(a.bandit, a.spec, conditions(a)),
  get_bandit: (c, a) => c.getBandit(a.bandit),
  delete_bandit: (c, a) => c.deleteBandit(a.bandit),
  set_mode: (c, { bandit, ...mode }) => c.setMode(bandit, mode),
  values: (c, a) => c.values(a.bandit),
  audit: (c, a) => c.audit(a.bandit),
  findings: (c, a) => c.findings(a.bandit),
  put_challenger: (c, a) => c.putChallenger(a.bandit, a.challenger, a.differs),
  challenger: (c, a) => c.challenger(a.bandit, a.challenger),
  list_challengers: (c, a) => c.listChallengers(a.bandit),
  delete_challenger: (c, a) => c.deleteChallenger(a.bandit, a.challenger),
  promote: (c, a) => c.promote(a.bandit, a.challenger, optional("share", a.share)),
  demote: (c, a) => c.demote(a.bandit, a.challenger),
  put_actions: (c, a) => c.putActions(a.bandit, a.actions),
  list_actions: (c, a) => c.listActions(a.bandit),
  retire_action: (c, a) => c.retireAction(a.bandit, a.action),
  train: (c, a) => c.train(a.bandit, optional("wait", a.wait)),
  list_snapshots: (c, a) => c.listSnapshots(a.bandit),
  export_snapshot: (c, a) => c.exportSnapshot(a.bandit),
  import_snapshot: (c, a) => c.importSnapshot(a.bandit, a.snapshot),
  rollback: (c, a) => c.rollback(a.bandit, a.version),
  recover: (c, a) => c.recover(a.bandit),
  export_log: (c, a) => c.exportLog(a.bandit),
  import_log: (c, { bandit, ...request }) => c.importLog(bandit, request),
  list_evaluations: (c, a) => c.listEvaluations(a.bandit),
  erase: (c, a) => c.erase(a),
  ready: (c) => c.ready(),
  learnz: (c) => c.learnz(),
  clock: (c) => c.clock(),
};

const QUEUE_CALLS = {
  put: (queue, a) => queue.put(a),
  flush: (queue, a) => queue.flush(a.within_s * 1000),
  close: (queue, a) => queue.close(a.within_s * 1000),
  counts: (queue) => ({
    delivered: queue.numDelivered, rejected: queue.numRejected, fallback: queue.numFallback,
    waiting: queue.numWaiting, refused: queue.refused,
  }),
};

class Player {
  #client;
  #queue;
  #kept = new Map([["nan", NaN]]);

  constructor(client) {
    this.#client = client;
  }

  async step(step, number) {
    let found;
    try {
      const named = this.#meant(step.with ?? {}, number);
      found = (await this.#call(step.call, named)) ?? null;
    } catch (error) {
      return { failed: failed(error) };
    }
    if (step.as !== undefined) {
      this.#kept.set(step.as, found);
      this.#kept.set(`${step.as}${number}`, found);
    }
    return { gave: asJson(found) };
  }

  async close() {
    await this.#queue?.close(0).catch((error) => {
      if (!(error instanceof Undelivered)) throw error;
    });
  }

  #call(name, named) {
    if (!name.startsWith("queue.")) return CALLS[name](this.#client, named);
    if (name === "queue.open") {
      const refused = [];
      this.#queue = new RewardQueue(this.#client, {
        ...optional("maxBatch", named.max_batch), ...optional("maxWaiting", named.max_waiting),
        onRejected: (report) => refused.push(report.decision_id),
        log: () => {},
      });
      this.#queue.refused = refused;
      return undefined;
    }
    return QUEUE_CALLS[name.slice("queue.".length)](this.#queue, named);
  }

  /** Returns an argument with what its names stand for. */
  #meant(value, number) {
    if (Array.isArray(value)) return value.map((each) => this.#meant(each, number));
    if (typeof value === "object" && value !== null) {
      return Object.fromEntries(
        Object.entries(value).map(([key, each]) => [key, this.#meant(each, number)]),
      );
    }
    if (typeof value !== "string" || !value.startsWith("$")) return value;
    const [name, ...fields] = value.slice(1).replace("#i", number).split(".");
    if (!this.#kept.has(name)) throw new Error(`no earlier step gave ${name}`);
    return fields.reduce((found, field) => found[field], this.#kept.get(name));
  }
}

function failed(error) {
  if (error instanceof BanditError) {
    const { name: kind, status, problem } = error;
    if (error instanceof PreconditionFailed) return { kind, status, problem, etag: error.etag };
    if (!(error instanceof ServiceUnavailable)) return { kind, status, problem };
    const retry_after_s = error.retryAfterMs === null ? null : error.retryAfterMs / 1000;
    return { kind, status, problem, timed_out: error.timedOut, retry_after_s };
  }
  if (error instanceof Undelivered) {
    const decisions = error.reports.map((report) => report.decision_id);
    return { kind: "Undelivered", num: decisions.length, decisions };
  }
  if (error instanceof QueueFull || error instanceof QueueClosed) return { kind: error.name };
  if (error instanceof TypeError || error instanceof RangeError) {
    return { kind: "argument", text: error.message };
  }
  return { kind: "unplayed", text: String(error?.stack ?? error) };
}

/** Returns an answer of the client as JSON. */
function asJson(value) {
  if (value instanceof Uint8Array) return { bytes: value.length };
  if (Array.isArray(value)) return value.map(asJson);
  return value instanceof Rejected ? { failed: failed(value) } : value;
}

function optional(name, value) {
  return value === undefined ? {} : { [name]: value };
}

function conditions({ etag, only_new }) {
  return { ...optional("etag", etag), ...optional("onlyNew", only_new) };
}

function limit(seconds) {
  return seconds === undefined ? {} : { withinMs: seconds * 1000 };
}

async function play(scene) {
  const { timeout_s = 10, attempts, first_wait_s, max_wait_s } = scene.client ?? {};
  const client = new BanditClient(scene.url, {
    timeoutMs: timeout_s * 1000,
    retry: {
      ...optional("attempts", attempts),
      ...optional("firstWaitMs", first_wait_s === undefined ? undefined : first_wait_s * 1000),
      ...optional("maxWaitMs", max_wait_s === undefined ? undefined : max_wait_s * 1000),
    },
  });
  const player = new Player(client);
  const outcomes = [];
  for (const step of scene.steps) {
    for (let number = 0; number < (step.times ?? 1); number += 1) {
      outcomes.push(await player.step(step, number));
    }
  }
  await player.close();
  return outcomes;
}

const scenes = JSON.parse(readFileSync(process.argv[2], "utf8"));
const found = {};
const calm = scenes.filter((scene) => !scene.victim);
const next = calm[Symbol.iterator]();
await Promise.all(
  Array.from({ length: SIDE_BY_SIDE }, async () => {
    for (const scene of next) found[scene.name] = await play(scene);
  }),
);
for (const scene of scenes.filter((each) => each.victim)) found[scene.name] = await play(scene);
console.log(JSON.stringify(found));
