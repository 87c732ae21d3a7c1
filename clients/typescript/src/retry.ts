/**
 * When a call is sent again, and after how long.
 *
 * Only calls that may be repeated are: reads, and writes with an id by which the service recognises
 * them. Between two attempts the client waits a random time up to `firstWaitMs`, then up to twice
 * that, four times that and so on, at most `maxWaitMs` ("full jitter": many clients do not return
 * at once). It never waits less than the service requests in `Retry-After`, up to `maxWaitMs`.
 */

import { ServiceUnavailable } from "./errors.js";

export interface RetryOptions {
  /** The most attempts, the first included; 1: an error at once. Default 4. */
  attempts?: number;
  /** Upper bound of the first wait. Default 100. */
  firstWaitMs?: number;
  /** Upper bound of every wait. Default 5000. */
  maxWaitMs?: number;
}

export class Retry {
  readonly attempts: number;
  readonly firstWaitMs: number;
  readonly maxWaitMs: number;

  /** @throws RangeError An option is out of range. */
  constructor(options: RetryOptions = {}) {
    this.attempts = options.attempts ?? 4;
    this.firstWaitMs = options.firstWaitMs ?? 100;
    this.maxWaitMs = options.maxWaitMs ?? 5000;
    if (!Number.isInteger(this.attempts) || this.attempts < 1) {
      throw new RangeError(`attempts must be an integer of at least 1, not ${this.attempts}`);
    }
    if (!(this.firstWaitMs > 0 && this.firstWaitMs <= this.maxWaitMs)) {
      throw new RangeError("firstWaitMs must be above 0 and at most maxWaitMs");
    }
  }

  /**
   * Return how long to wait after a failed attempt; null: do not try again.
   *
   * `leftMs` is what the call has left; a wait that would use it up is not begun.
   */
  waitMs(attempt: number, error: unknown, leftMs: number): number | null {
    if (attempt >= this.attempts || !(error instanceof ServiceUnavailable)) return null;
    const wait = this.pauseMs(attempt, error);
    return wait < leftMs ? wait : null;
  }

  /** Return a random pause after a number of attempts. */
  pauseMs(attempt: number, error: unknown): number {
    const bound = Math.min(this.maxWaitMs, this.firstWaitMs * 2 ** Math.min(attempt - 1, 60));
    const asked = error instanceof ServiceUnavailable ? (error.retryAfterMs ?? 0) : 0;
    return Math.max(Math.random() * bound, Math.min(asked, this.maxWaitMs));
  }
}
