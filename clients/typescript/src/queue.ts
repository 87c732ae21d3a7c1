/**
 * Delivers rewards in the background: what `put` accepts is delivered, or listed at `close`.
 *
 * Waiting rewards are sent oldest first, in batches. While the service does not answer or refuses
 * the key, the queue retries with growing pauses and drops nothing. Each reward carries an id, so
 * that one sent twice counts once. Only the service itself refuses a reward for good: a page of a
 * proxy, whatever its status, is no answer.
 *
 * While rewards wait, Node's process does not end by itself. Without a spool nothing is on disk:
 * what waits is lost when the process is killed or calls `process.exit`.
 */

import type { RewardReport, RewardStatus } from "./answers.js";
import type { BanditClient } from "./client.js";
import { BanditError, Rejected } from "./errors.js";
import { isFallback, newId } from "./ids.js";
import { Retry } from "./retry.js";
import { MAX_TIMER_MS, now, pause } from "./transport.js";

const LATER = [401, 403, 429, 503]; // the key is wrong, or the service is busy: not the reward's fault
const PAUSES = new Retry({ firstWaitMs: 200, maxWaitMs: 10_000 });
const CLOSING_PAUSE_MS = 200;

/** A reward that waits: it has an id. */
export type WaitingReward = RewardReport & { reward_id: string };

/** Where rewards that wait survive their process; `bandexa-client/spool` has one of files. */
export interface Spool {
  /** Keep a reward; an error means that it is not kept, and the queue does not accept it. */
  add(report: WaitingReward): void;
  /** Only these wait still. */
  settled(waiting: readonly WaitingReward[]): void;
  /** Return what earlier processes left; this spool keeps it from here on. */
  adopt(): WaitingReward[];
  /** Leave what waits to the next spool. */
  close(): void;
}

export interface RewardQueueOptions {
  /** The most rewards that wait. Default 100,000. */
  maxWaiting?: number;
  /** The most rewards sent in one call, up to 1000. Default 100. */
  maxBatch?: number;
  /** Called for each reward that the service refused for good; default: they are logged. */
  onRejected?: (report: WaitingReward, error: Rejected) => void;
  /** Keeps what waits; default: it is in memory only. */
  spool?: Spool;
  /** Gets lines for people. Default: `console.warn`. */
  log?: (line: string) => void;
}

/** The most rewards are waiting; this one was not accepted. */
export class QueueFull extends Error {
  override name = "QueueFull";
}

/** The queue is closed and accepts no more rewards. */
export class QueueClosed extends Error {
  override name = "QueueClosed";
}

/** The queue was closed before all rewards were delivered. */
export class Undelivered extends Error {
  override name = "Undelivered";

  /** @param reports The rewards that were left; the caller can send them again. */
  constructor(readonly reports: readonly WaitingReward[]) {
    super(`${reports.length} rewards were not delivered`);
  }
}

export class RewardQueue {
  readonly #client: BanditClient;
  readonly #maxWaiting: number;
  readonly #maxBatch: number;
  readonly #onRejected: RewardQueueOptions["onRejected"];
  readonly #log: (line: string) => void;
  readonly #spool: Spool | undefined;
  readonly #ending = new AbortController(); // the time of the close is over
  #hurry = new AbortController(); // ends a pause early
  #waiting: WaitingReward[] = [];
  #failing = new Set<string>(); // reward ids that the service failed on
  readonly #changed = new Set<() => void>();
  #delivering: Promise<void> | undefined;
  #closing = false;
  /** Rewards that the service has accepted. */
  numDelivered = 0;
  /** Rewards that the service has refused for good. */
  numRejected = 0;
  /** Rewards of fallback decisions, which are not sent. */
  numFallback = 0;

  /** @throws RangeError An option is out of range. */
  constructor(client: BanditClient, options: RewardQueueOptions = {}) {
    this.#client = client;
    this.#maxWaiting = within("maxWaiting", options.maxWaiting ?? 100_000, Infinity);
    this.#maxBatch = within("maxBatch", options.maxBatch ?? 100, 1000);
    this.#onRejected = options.onRejected;
    this.#log = options.log ?? ((line) => console.warn(line));
    this.#spool = options.spool;
    this.#waiting.push(...(this.#spool?.adopt() ?? []));
    this.#start();
  }

  /** The number of accepted rewards that are not delivered yet. */
  get numWaiting(): number {
    return this.#waiting.length;
  }

  /**
   * Accept a reward for delivery. The queue makes an id where there is none, so that every `put` is
   * an outcome.
   *
   * @throws TypeError The report is none.
   * @throws RangeError A number is not finite.
   * @throws QueueFull There was no room.
   * @throws QueueClosed The queue is closed.
   */
  put(report: RewardReport): void {
    check(report);
    if (isFallback(report.decision_id)) {
      this.numFallback += 1;
      return;
    }
    if (this.#closing) throw new QueueClosed("the reward queue is closed");
    if (this.#waiting.length >= this.#maxWaiting) {
      throw new QueueFull(`${this.#maxWaiting} rewards are waiting`);
    }
    const waiting = { ...report, reward_id: report.reward_id ?? newId() };
    this.#spool?.add(waiting);
    this.#waiting.push(waiting);
    this.#start();
  }

  /** Wait until there is room for a reward; false: not within the time. */
  room(withinMs: number): Promise<boolean> {
    return this.#until(() => this.#waiting.length < this.#maxWaiting, withinMs);
  }

  /** Wait until every accepted reward is settled; false: not within the time. */
  flush(withinMs: number): Promise<boolean> {
    return this.#until(() => this.#waiting.length === 0, withinMs);
  }

  /**
   * Deliver the waiting rewards and accept no more; a second call does nothing.
   *
   * With a spool, what is left after `withinMs` waits there for the next queue.
   *
   * @throws Undelivered Rewards were left, and there is no spool.
   */
  async close(withinMs = 30_000): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    this.#hurry.abort();
    await this.flush(withinMs);
    this.#ending.abort();
    await this.#delivering;
    this.#spool?.close();
    const left = this.#waiting;
    if (left.length === 0) return;
    if (this.#spool === undefined) throw new Undelivered([...left]);
    this.#log(`${left.length} rewards wait in the spool for the next queue`);
  }

  // -- delivery -----------------------------------------------------------------------------------

  #start(): void {
    if (this.#waiting.length === 0 || this.#delivering !== undefined) return;
    this.#delivering = this.#deliver().finally(() => {
      this.#delivering = undefined;
    });
  }

  /** Deliver until nothing waits, or the time of the close is over. */
  async #deliver(): Promise<void> {
    await Promise.resolve(); // the rewards that are put in one turn of the event loop go together
    let failures = 0;
    let size = this.#maxBatch;
    while (this.#waiting.length > 0 && !this.#ending.signal.aborted) {
      const batch = this.#waiting.slice(0, size);
      let problem: unknown = new BanditError();
      let settled = 0;
      try {
        settled = await this.#sendBatch(batch);
      } catch (error) {
        if (this.#ending.signal.aborted) return;
        if (error instanceof Rejected && !LATER.includes(error.status) && batch.length > 1) {
          size = Math.floor(batch.length / 2); // too large, or one reward makes the call invalid
          continue;
        }
        if (failures === 0) this.#log(`rewards wait: ${error}`);
        problem = error;
      }
      if (settled > 0) {
        if (failures > 0) this.#log("rewards are delivered again");
        failures = 0;
        size = this.#maxBatch;
      } else {
        failures += 1;
        await this.#pause(PAUSES.pauseMs(failures, problem));
      }
    }
  }

  /** Send a batch; return how many of its first rewards are settled. */
  async #sendBatch(batch: readonly WaitingReward[]): Promise<number> {
    let results: (RewardStatus | Rejected)[];
    try {
      results = await this.#client.rewardBatch(batch, { signal: this.#ending.signal });
    } catch (error) {
      const single = error instanceof Rejected && batch.length === 1;
      if (!single || LATER.includes(error.status) || !isVerdict(error)) throw error;
      results = [error];
    }
    const failed: WaitingReward[] = [];
    const tried: WaitingReward[] = [];
    for (const [number, report] of batch.entries()) {
      const result = results[number];
      if (result instanceof Rejected) {
        if (LATER.includes(result.status)) break; // the others wait behind it, in order
        if (result.status >= 500) {
          if (!this.#failing.has(report.reward_id)) {
            this.#log(`a reward of decision ${report.decision_id} waits: ${result.message}`);
          }
          failed.push(report);
        } else {
          this.numRejected += 1;
          this.#refused(report, result);
        }
      } else {
        this.numDelivered += 1;
      }
      tried.push(report);
    }
    for (const report of tried) this.#failing.delete(report.reward_id);
    for (const report of failed) this.#failing.add(report.reward_id);
    this.#settle(tried.length, failed);
    return tried.length - failed.length;
  }

  /**
   * Remove the first rewards; those that the service failed on wait behind all others.
   *
   * So they block none. Later ones of the same decisions wait behind them: the order of a
   * decision's rewards counts.
   */
  #settle(num: number, failed: readonly WaitingReward[]): void {
    const decisions = new Set(failed.map((report) => report.decision_id));
    const left = this.#waiting.slice(num);
    this.#waiting = [
      ...left.filter((report) => !decisions.has(report.decision_id)),
      ...failed,
      ...left.filter((report) => decisions.has(report.decision_id)),
    ];
    for (const wake of [...this.#changed]) wake();
    this.#spool?.settled(this.#waiting);
  }

  #refused(report: WaitingReward, error: Rejected): void {
    if (this.#onRejected === undefined) {
      this.#log(`a reward of decision ${report.decision_id} was refused: ${error.message}`);
      return;
    }
    try {
      this.#onRejected(report, error);
    } catch (failure) {
      this.#log(`onRejected failed: ${failure}`); // the caller's code must not end the delivery
    }
  }

  async #pause(ms: number): Promise<void> {
    const ended = this.#closing ? this.#ending.signal : this.#hurry.signal;
    try {
      await pause(this.#closing ? Math.min(ms, CLOSING_PAUSE_MS) : ms, ended);
    } catch {
      // the queue is being closed: the next attempt comes at once
    }
  }

  /** Wait until something holds; false: not within the time. */
  async #until(holds: () => boolean, withinMs: number): Promise<boolean> {
    const deadline = now() + withinMs;
    while (!holds()) {
      const left = deadline - now();
      if (left <= 0) return false;
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          clearTimeout(timer);
          this.#changed.delete(wake); // nothing is left of a wait that ended
          resolve();
        };
        const timer = setTimeout(wake, Math.min(left, MAX_TIMER_MS));
        this.#changed.add(wake);
      });
    }
    return true;
  }
}

function within(name: string, value: number, most: number): number {
  if (value >= 1 && value <= most) return value;
  throw new RangeError(`${name} must be 1 to ${most}, not ${value}`);
}

/** Refuse what is no reward, before it is accepted. */
function check(report: RewardReport): void {
  const { decision_id, reward, reward_id, action, bandit, metrics } = report;
  if (typeof decision_id !== "string") throw new TypeError("decision_id: must be a string");
  for (const [name, text] of Object.entries({ reward_id, action, bandit })) {
    if (text !== undefined && text !== null && typeof text !== "string") {
      throw new TypeError(`${name}: must be a string, not ${typeof text}`);
    }
  }
  const several = metrics ?? {};
  const single = reward ?? null;
  if ((single === null) === (Object.keys(several).length === 0)) {
    throw new TypeError("reward: give either `reward` or `metrics`");
  }
  const numbers = single === null ? Object.entries(several) : [["reward", single] as const];
  for (const [name, number] of numbers) {
    if (typeof number !== "number") throw new TypeError(`${name}: must be a number`);
    if (!Number.isFinite(number)) throw new RangeError(`${name}: must be finite, not ${number}`);
  }
}

/** Return whether the service itself refused, and not something on the way to it. */
function isVerdict(error: Rejected): boolean {
  return String(error.problem.type ?? "").startsWith("urn:bandexa:");
}
