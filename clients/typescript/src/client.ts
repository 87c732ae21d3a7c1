/**
 * Every call of the service. Bodies and answers have the names of the service's API, so that its
 * reference is that of the client, too.
 */

import {
  type ActionState,
  type ActivationStatus,
  type Advice,
  type AuditTrail,
  type BanditSpec,
  type BanditState,
  type Body,
  type Catalogue,
  type CatalogueAction,
  type ChallengerState,
  checked,
  type ClockState,
  type Compacted,
  type Corrected,
  type Erased,
  type EvaluationState,
  type Explanation,
  type Imported,
  json,
  type LearnState,
  type LogPage,
  logPage,
  type NotedFindings,
  type Plan,
  type Readiness,
  reads,
  readsItems,
  type Replayed,
  type RewardReport,
  type RewardStatus,
  type ScoreRequest,
  type Scores,
  type Selection,
  selection,
  type SelectRequest,
  type Snapshots,
  type SnapshotState,
  tagged,
  type TaggedBandit,
  type Training,
  type Values,
  type Voided,
} from "./answers.js";
import type { Features } from "./arrays.js";
import { type Rejected, ServiceFailed, ServiceUnavailable } from "./errors.js";
import { isFallback, newFallbackId, newId } from "./ids.js";
import { CALLS } from "./schema.js";
import {
  type Call,
  type CallOptions,
  type ClientOptions,
  type Received,
  Transport,
} from "./transport.js";

const PAGE = 10_000; // the most actions that the service lists at once
const BANDITS = 1000; // in one page

/** What can vary in how an operation is sent. */
type Sent<T> = Partial<Omit<Call<T>, "method" | "path" | "read">> & {
  query?: Record<string, string | number | boolean | undefined>;
};

/** When a change of a bandit may take effect; none: always. */
export interface Conditions {
  /** The `etag` of an earlier answer: while the configuration is that one. */
  etag?: string;
  /** While there is no bandit of this name. The call is not sent again. */
  onlyNew?: boolean;
}

/**
 * The service at an address, such as `http://127.0.0.1:8080`.
 *
 * A failed call throws a `BanditError`. A call that may be repeated is repeated when the service
 * does not answer. A client holds nothing that has to be closed.
 */
export class BanditClient {
  readonly #transport: Transport;

  /** @throws TypeError The address, the key or an option cannot be used. */
  constructor(url: string, options: ClientOptions = {}) {
    this.#transport = new Transport(url, options);
  }

  /** How many requests were sent. */
  get numRequests(): number {
    return this.#transport.numRequests;
  }

  // -- decisions ----------------------------------------------------------------------------------

  /**
   * Ask which action to take.
   *
   * Without a `decision_id` the client makes one when it retries, so that a repeated call gives the
   * same decision. `fallback` is the action to take when the service does not answer.
   *
   * @throws ServiceUnavailable The service did not answer, and there is no `fallback`.
   */
  async select(
    request: SelectRequest,
    options: CallOptions & { fallback?: string } = {},
  ): Promise<Selection> {
    const decisionId = request.decision_id ?? (this.#transport.attempts > 1 ? newId() : undefined);
    const body = { ...request, decision_id: decisionId };
    const read = (response: Received): Selection => selection(json(response), decisionId);
    try {
      const sent = { body, repeatable: decisionId !== undefined };
      return await this.#send("select", [], read, options, sent);
    } catch (error) {
      const away = error instanceof ServiceUnavailable || error instanceof ServiceFailed;
      if (!away || options.fallback === undefined) throw error;
      return fallbackSelection(options.fallback);
    }
  }

  /** Answer up to 1000 selects in one call; each succeeds or is rejected on its own. */
  selectBatch(
    requests: readonly SelectRequest[],
    options?: CallOptions,
  ): Promise<(Selection | Rejected)[]> {
    const read = readsItems(requests.length, (value, number) =>
      selection(value, requests[number]?.decision_id),
    );
    const repeatable = requests.every((request) => typeof request.decision_id === "string");
    return this.#send("select_batch", [], read, options, { body: { items: requests }, repeatable });
  }

  /** Report an outcome of a decision. The reward of a fallback decision is not sent. */
  async reward(report: RewardReport, options?: CallOptions): Promise<RewardStatus> {
    if (isFallback(report.decision_id)) return { status: "fallback", train_due: false };
    const sent = { body: report, outlivesPage: true };
    return await this.#send("reward", [], reads("RewardAnswer"), options, sent);
  }

  /** Report up to 1000 outcomes in one call; each succeeds or is rejected on its own. */
  rewardBatch(
    reports: readonly RewardReport[],
    options?: CallOptions,
  ): Promise<(RewardStatus | Rejected)[]> {
    const read = readsItems(reports.length, (value) => checked("RewardAnswer", value));
    const sent = { body: { items: reports }, outlivesPage: true };
    return this.#send("reward_batch", [], read, options, sent);
  }

  /** Ask what would become of up to 1000 outcomes, each by itself; nothing is stored. */
  checkRewards(
    reports: readonly RewardReport[],
    options?: CallOptions,
  ): Promise<(RewardStatus | Rejected)[]> {
    const read = readsItems(reports.length, (value) => checked("RewardAnswer", value));
    return this.#send("check_rewards", [], read, options, { body: { items: reports } });
  }

  /** Count a decision that was made with `activate: false`, once it is shown. */
  async activate(decisionId: string, options?: CallOptions): Promise<ActivationStatus> {
    if (isFallback(decisionId)) return { status: "fallback" };
    const sent = { body: { decision_id: decisionId } };
    return await this.#send("activate", [], reads("ActivateAnswer"), options, sent);
  }

  /** Return mean and standard deviation of every candidate; nothing is recorded. */
  score(bandit: string, request: ScoreRequest, options?: CallOptions): Promise<Scores> {
    return this.#send("score", [bandit], reads("ScoreAnswer"), options, { body: request });
  }

  /** Return a decision, drawn again from its snapshot and the log up to its position. */
  explain(bandit: string, decisionId: string, options?: CallOptions): Promise<Explanation> {
    const read = reads("DecisionAnswer");
    return this.#send("explain", [bandit, decisionId], read, options, { slow: true });
  }

  /** Void rewards: nothing is learned from them any more; it may be repeated. */
  voidRewards(
    bandit: string,
    request: Body<"void_rewards">,
    options?: CallOptions,
  ): Promise<Voided> {
    const sent = { body: request, slow: true };
    return this.#send("void_rewards", [bandit], reads("VoidAnswer"), options, sent);
  }

  /** Replace the value of a decision, whatever was reported so far; it may be repeated. */
  correctReward(
    bandit: string,
    request: Body<"correct_reward">,
    options?: CallOptions,
  ): Promise<Corrected> {
    return this.#send("correct_reward", [bandit], reads("CorrectAnswer"), options, { body: request });
  }

  // -- bandits ------------------------------------------------------------------------------------

  /**
   * Create a bandit, or change its configuration; `created` says which.
   *
   * With `wait`, a change for which a model is learned anew is served when the call returns. With
   * the `etag` of an earlier answer it is changed only while its configuration is that one; with
   * `onlyNew` it is created, and none that is there is changed.
   *
   * @throws Conflict The change is one that the log cannot answer for.
   * @throws PreconditionFailed Somebody else has changed it meanwhile; with `onlyNew`, there is a
   *     bandit of this name. Nothing was changed.
   */
  async putBandit(
    bandit: string,
    spec: BanditSpec,
    options: CallOptions & Conditions & { wait?: boolean } = {},
  ): Promise<TaggedBandit & { created: boolean }> {
    const wait = options.wait ?? false;
    const read = (response: Received): TaggedBandit & { created: boolean } => ({
      ...tagged(response),
      created: response.status === 201,
    });
    const sent = {
      body: spec,
      slow: wait,
      query: { wait: wait || undefined },
      conditions: conditions(options),
      repeatable: options.onlyNew !== true, // else a lost answer would look like somebody else's
    };
    return this.#send("put_bandit", [bandit], read, options, sent);
  }

  /** Return what `putBandit` would do; nothing is changed. */
  async planBandit(
    bandit: string,
    spec: BanditSpec,
    options: CallOptions & Conditions = {},
  ): Promise<Plan> {
    const sent = { body: spec, query: { dry_run: true }, conditions: conditions(options) };
    return this.#send("put_bandit", [bandit], reads("PlanAnswer"), options, sent);
  }

  /** Return configuration and progress of a bandit; its `etag` is for `putBandit`. */
  getBandit(bandit: string, options?: CallOptions): Promise<TaggedBandit> {
    return this.#send("get_bandit", [bandit], tagged, options);
  }

  /** Return configuration and progress of every bandit, sorted by name. */
  async listBandits(options?: CallOptions): Promise<BanditState[]> {
    const found: BanditState[] = [];
    let after: string | undefined;
    do {
      const sent = { query: { limit: BANDITS, after } };
      const page = await this.#send("list_bandits", [], reads("BanditList"), options, sent);
      found.push(...page.bandits);
      after = page.next ?? undefined;
    } while (after !== undefined);
    return found;
  }

  /** Delete a bandit with its decisions and snapshots. */
  deleteBandit(bandit: string, options?: CallOptions): Promise<void> {
    return this.#send("delete_bandit", [bandit], nothing, options, { repeatable: false });
  }

  /** Change who decides from the next decision on, and nothing else. */
  setMode(bandit: string, mode: Body<"set_mode">, options?: CallOptions): Promise<BanditState> {
    return this.#send("set_mode", [bandit], reads("BanditAnswer"), options, { body: mode });
  }

  /** Return what arms and actions earned, with intervals that hold at any time. */
  values(bandit: string, options: CallOptions & { limit?: number } = {}): Promise<Values> {
    const sent = { query: { limit: options.limit } };
    return this.#send("values", [bandit], reads("ValuesAnswer"), options, sent);
  }

  /** Return who changed a bandit, when, and what that changed; newest first. */
  audit(
    bandit: string,
    options: CallOptions & { before?: number; limit?: number } = {},
  ): Promise<AuditTrail> {
    const sent = { query: { before: options.before, limit: options.limit } };
    return this.#send("audit", [bandit], reads("AuditList"), options, sent);
  }

  /** Return what was wrong with a bandit, and when: the last 200 findings, newest first. */
  findings(bandit: string, options?: CallOptions): Promise<NotedFindings> {
    return this.#send("findings", [bandit], reads("FindingList"), options);
  }

  /** Create another bandit, which learns the rows of this one under another configuration. */
  replayBandit(
    bandit: string,
    request: Body<"replay_bandit">,
    options?: CallOptions,
  ): Promise<Replayed> {
    const sent = { body: request, repeatable: false, slow: true };
    return this.#send("replay_bandit", [bandit], reads("ReplayAnswer"), options, sent);
  }

  // -- challengers --------------------------------------------------------------------------------

  /**
   * Declare a challenger, or change it; it learns the bandit's log and serves nothing.
   *
   * `differs` are the keys in which its configuration differs; "linear" and "greedy" need none.
   */
  putChallenger(
    bandit: string,
    challenger: string,
    differs: Body<"put_challenger"> = {},
    options?: CallOptions,
  ): Promise<ChallengerState> {
    const sent = { body: differs, slow: true };
    return this.#send("put_challenger", [bandit, challenger], reads("ChallengerState"), options, sent);
  }

  /** Return a challenger, and how it compares with what was served. */
  challenger(bandit: string, challenger: string, options?: CallOptions): Promise<ChallengerState> {
    return this.#send("challenger", [bandit, challenger], reads("ChallengerState"), options);
  }

  /** Return the challengers of a bandit, by name. */
  async listChallengers(bandit: string, options?: CallOptions): Promise<ChallengerState[]> {
    const read = reads("ChallengerList");
    return (await this.#send("list_challengers", [bandit], read, options)).challengers;
  }

  /** Remove a challenger; a trial of it ends, and what is served stays. */
  deleteChallenger(bandit: string, challenger: string, options?: CallOptions): Promise<void> {
    const sent = { repeatable: false };
    return this.#send("delete_challenger", [bandit, challenger], nothing, options, sent);
  }

  /** Give a challenger a share of the decisions, or make its configuration the bandit's (1). */
  promote(
    bandit: string,
    challenger: string,
    options: CallOptions & { share?: number; wait?: boolean } = {},
  ): Promise<BanditState> {
    const { share, wait } = options;
    const sent = { body: { share: share ?? 1 }, repeatable: false, slow: true, query: { wait } };
    return this.#send("promote", [bandit, challenger], reads("BanditAnswer"), options, sent);
  }

  /** End the trial of a challenger, or serve again what it replaced, with all rows since. */
  demote(bandit: string, challenger: string, options?: CallOptions): Promise<BanditState> {
    const sent = { repeatable: false, slow: true };
    return this.#send("demote", [bandit, challenger], reads("BanditAnswer"), options, sent);
  }

  // -- the catalogue ------------------------------------------------------------------------------

  /** Add actions, or overwrite those of the same ids. Others stay as they are. */
  putActions(
    bandit: string,
    actions: readonly (string | CatalogueAction)[] | { ids: readonly string[]; features: Features },
    options?: CallOptions,
  ): Promise<Catalogue> {
    const body = "ids" in actions ? actions : { actions: actions.map(rowOf) };
    return this.#send("put_actions", [bandit], reads("CatalogueAnswer"), options, { body });
  }

  /** Return actions in the order of their slots, retired ones included. */
  async listActions(
    bandit: string,
    options: CallOptions & { offset?: number; limit?: number } = {},
  ): Promise<ActionState[]> {
    const first = options.offset ?? 0;
    const most = options.limit ?? Infinity;
    const found: ActionState[] = [];
    while (found.length < most) {
      const offset = first + found.length;
      const sent = { query: { offset, limit: Math.min(PAGE, most - found.length) } };
      const page = await this.#send("list_actions", [bandit], reads("ActionList"), options, sent);
      found.push(...page.actions);
      if (page.actions.length === 0 || first + found.length >= page.total) break;
    }
    return found;
  }

  /** Stop offering an action; what was learned of it stays. `putActions` offers it again. */
  retireAction(bandit: string, action: string, options?: CallOptions): Promise<Catalogue> {
    return this.#send("retire_action", [bandit, action], reads("CatalogueAnswer"), options);
  }

  // -- training and snapshots ---------------------------------------------------------------------

  /** Train now; return once the new snapshot is served, or at once with `wait: false`. */
  train(bandit: string, options: CallOptions & { wait?: boolean } = {}): Promise<Training> {
    const wait = options.wait ?? true;
    const sent = { repeatable: false, slow: wait, query: { wait } };
    return this.#send("train", [bandit], reads("TrainAnswer"), options, sent);
  }

  /** Return the snapshots on the server's disk; `rollback` takes any of them. */
  listSnapshots(bandit: string, options?: CallOptions): Promise<Snapshots> {
    return this.#send("list_snapshots", [bandit], reads("SnapshotList"), options);
  }

  /** Return the served snapshot, for `importSnapshot`. */
  exportSnapshot(bandit: string, options?: CallOptions): Promise<Uint8Array> {
    const read = (response: Received): Uint8Array => response.bytes;
    return this.#send("export_snapshot", [bandit], read, options, { slow: true });
  }

  /** Serve an exported snapshot from a bandit of equal configuration and actions. */
  importSnapshot(
    bandit: string,
    snapshot: Uint8Array,
    options?: CallOptions,
  ): Promise<SnapshotState> {
    const sent = { body: snapshot, repeatable: false, slow: true };
    return this.#send("import_snapshot", [bandit], reads("SnapshotAnswer"), options, sent);
  }

  /** Serve an older snapshot from here on: what was learned after it leaves the model. */
  rollback(bandit: string, version: number, options?: CallOptions): Promise<SnapshotState> {
    const sent = { body: { version }, repeatable: false, slow: true };
    return this.#send("rollback", [bandit], reads("SnapshotAnswer"), options, sent);
  }

  /** Recover a failed bandit now; one that has not failed is unchanged. */
  recover(bandit: string, options?: CallOptions): Promise<SnapshotState> {
    const sent = { repeatable: false, slow: true };
    return this.#send("recover", [bandit], reads("RecoverAnswer"), options, sent);
  }

  // -- the log ------------------------------------------------------------------------------------

  /**
   * Return decisions with all that came of them, oldest first: a page of the log.
   *
   * `after` is the `row` of the page before, and `moment` that of the first page.
   */
  exportLog(
    bandit: string,
    options: CallOptions & { after?: number; moment?: string; limit?: number } = {},
  ): Promise<LogPage> {
    const { after, moment, limit } = options;
    const sent = { slow: true, query: { after: after ?? 0, limit: limit ?? 1000, moment } };
    return this.#send("export_log", [bandit], logPage, options, sent);
  }

  /** Import up to 1000 decisions that were made elsewhere; it may be repeated. */
  importLog(
    bandit: string,
    request: Body<"import_log">,
    options?: CallOptions,
  ): Promise<(Imported | Rejected)[]> {
    const read = readsItems(request.items.length, (value) => checked("ImportAnswer", value));
    return this.#send("import_log", [bandit], read, options, { body: request, slow: true });
  }

  /** Return which control or floor shows a difference within a number of decisions. */
  advice(
    bandit: string,
    options: CallOptions & {
      precision?: number;
      difference?: number;
      decisions?: number;
      variance?: number;
      actions?: number;
    } = {},
  ): Promise<Advice> {
    const { precision, difference, decisions, variance, actions } = options;
    const sent = { query: { precision, difference, decisions, variance, actions } };
    return this.#send("advice", [bandit], reads("AdviceAnswer"), options, sent);
  }

  /** Have policies evaluated on the log, beside the server; returned at once. */
  startEvaluation(
    bandit: string,
    request: Body<"start_evaluation">,
    options?: CallOptions,
  ): Promise<EvaluationState> {
    const sent = { body: request, repeatable: false };
    return this.#send("start_evaluation", [bandit], reads("EvaluationState"), options, sent);
  }

  /** Return an evaluation with its result; with `wait`, once it has ended. */
  evaluation(
    bandit: string,
    evaluation: string,
    options: CallOptions & { wait?: boolean } = {},
  ): Promise<EvaluationState> {
    const sent = { slow: options.wait ?? false, query: { wait: options.wait } };
    return this.#send("evaluation", [bandit, evaluation], reads("EvaluationState"), options, sent);
  }

  /** Return the evaluations of a bandit, newest first, without their results. */
  async listEvaluations(bandit: string, options?: CallOptions): Promise<EvaluationState[]> {
    const read = reads("EvaluationList");
    return (await this.#send("list_evaluations", [bandit], read, options)).evaluations;
  }

  /** Cancel an evaluation that has not ended; remove one that has. */
  deleteEvaluation(bandit: string, evaluation: string, options?: CallOptions): Promise<void> {
    return this.#send("delete_evaluation", [bandit, evaluation], nothing, options);
  }

  /** Erase decisions and what was learned from them; it may be repeated. */
  erase(request: Body<"erase">, options?: CallOptions): Promise<Erased> {
    return this.#send("erase", [], reads("EraseAnswer"), options, { body: request, slow: true });
  }

  // -- the server ---------------------------------------------------------------------------------

  /** Return free space of the database to the disk of the server. */
  compact(options?: CallOptions): Promise<Compacted> {
    return this.#send("compact", [], reads("CompactAnswer"), options, { slow: true });
  }

  /**
   * Return whether the service takes requests, and why not.
   *
   * @throws ServiceUnavailable Nothing answered, or something other than the service did.
   */
  ready(options?: CallOptions): Promise<Readiness> {
    const sent = { repeatable: false, reports503: true };
    return this.#send("ready", [], reads("Health"), options, sent);
  }

  /** Return whether every bandit learns, and what prevents it. */
  learnz(options?: CallOptions): Promise<LearnState> {
    return this.#send("learnz", [], reads("LearnAnswer"), options, { reports503: true });
  }

  /** Return service time, and how much the server's wall clock is ahead of it. */
  clock(options?: CallOptions): Promise<ClockState> {
    return this.#send("clock", [], reads("ClockAnswer"), options);
  }

  /** Say that the server's wall clock is right: its service time moves up to it. */
  acceptClock(options?: CallOptions): Promise<ClockState> {
    return this.#send("accept_clock", [], reads("ClockAnswer"), options);
  }

  /** Send the call of an operation; `parts` are what belongs into its path, in order. */
  async #send<T>(
    id: keyof typeof CALLS,
    parts: readonly string[],
    read: (response: Received) => T,
    options: CallOptions | undefined,
    sent: Sent<T> = {},
  ): Promise<T> {
    const [method, path] = CALLS[id];
    const { query, ...rest } = sent;
    const where = filled(path, parts) + queryOf(query ?? {});
    return await this.#transport.send(
      { method, path: where, read, repeatable: true, ...rest },
      options,
    );
  }
}

/**
 * Return a path with its parts.
 *
 * @throws TypeError A part is "." or "..": whoever reads the address would leave it out.
 */
function filled(path: string, parts: readonly string[]): string {
  let number = 0;
  return path.replace(/\{\w+\}/g, (name) => {
    const part = parts[number];
    number += 1;
    if (typeof part !== "string" || part === "" || part === "." || part === "..") {
      throw new TypeError(`${name}: ${JSON.stringify(part)} cannot be part of an address`);
    }
    return encodeURIComponent(part);
  });
}

function queryOf(query: Record<string, string | number | boolean | undefined>): string {
  const given = Object.entries(query).filter((one) => one[1] !== undefined);
  const text = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return text === "" ? "" : `?${text}`;
}

function conditions({ etag, onlyNew }: Conditions): Record<string, string> {
  if (etag === "") throw new TypeError("etag: the earlier answer had none");
  if (etag !== undefined && onlyNew === true) {
    throw new TypeError("etag: a bandit that is onlyNew has none yet");
  }
  if (onlyNew === true) return { "If-None-Match": "*" };
  return etag === undefined ? {} : { "If-Match": etag };
}

function rowOf(action: string | CatalogueAction): CatalogueAction {
  return typeof action === "string" ? { id: action } : action;
}

/** Read an answer without a body. */
function nothing(): void {
  return undefined;
}

/** Return the selection of the caller's own action, for a select without an answer. */
function fallbackSelection(action: string): Selection {
  const chosen = { id: action, index: -1 };
  return {
    decision_id: newFallbackId(),
    action: chosen,
    actions: [chosen],
    score: null,
    propensity: null,
    propensities: null,
    snapshot: -1,
    position: -1,
    all_propensities: null,
    arm: null,
    fallback: true,
  };
}
