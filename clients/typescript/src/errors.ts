/**
 * The errors of a failed call.
 *
 *     BanditError
 *     +-- ServiceUnavailable   no answer (refused, timed out, cut off), or overload (429, 503)
 *     +-- ServiceFailed        another 5xx, or a redirect
 *     |   +-- ContractBroken   an answer that does not follow the contract
 *     +-- Rejected             a 4xx with the service's problem document
 *         +-- NotFound         404, no such bandit, action, decision or snapshot
 *         +-- Conflict         409
 *         +-- PreconditionFailed   412, somebody else was faster: see `etag`
 *         +-- Gone             410, the decision was erased
 *         +-- Invalid          422, the problem names the fields
 */

import type { components } from "./schema.js";

/** The RFC 9457 document of a failure; empty where the answer has none. */
export type Problem = Partial<components["schemas"]["Problem"]> & Record<string, unknown>;

/** Any failed call. */
export class BanditError extends Error {
  override name = "BanditError";

  /** HTTP status of the answer that reports the failure; null without such an answer. */
  readonly status: number | null;
  /** The problem document of that answer; empty without one. */
  readonly problem: Problem;

  constructor(message = "", status: number | null = null, problem: Problem = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.status = status;
    this.problem = problem;
  }
}

/** The service did not answer, or asked to retry later (429, 503). */
export class ServiceUnavailable extends BanditError {
  override name = "ServiceUnavailable";

  /** Milliseconds to wait that the service asks for; null where it names none. */
  readonly retryAfterMs: number | null;
  /** There was no answer in time. The call may have taken effect. */
  readonly timedOut: boolean;

  constructor(
    message: string,
    details: {
      status?: number;
      problem?: Problem;
      retryAfterMs?: number | null;
      timedOut?: boolean;
      cause?: unknown;
    } = {},
  ) {
    super(message, details.status ?? null, details.problem, details.cause);
    this.retryAfterMs = details.retryAfterMs ?? null;
    this.timedOut = details.timedOut ?? false;
  }
}

/** The service failed. */
export class ServiceFailed extends BanditError {
  override name = "ServiceFailed";
}

/** The answer does not follow the contract, or belongs to another request; `status` is null. */
export class ContractBroken extends ServiceFailed {
  override name = "ContractBroken";
}

/** The service refused a call, or one item of a batch. */
export class Rejected extends BanditError {
  override name = "Rejected";

  declare readonly status: number;

  constructor(status: number, problem: Problem, where: string) {
    super(`${where}: ${problemText(status, problem)}`, status, problem);
  }
}

/** No such bandit, action, decision or snapshot. */
export class NotFound extends Rejected {
  override name = "NotFound";
}

/** The call contradicts what is stored. */
export class Conflict extends Rejected {
  override name = "Conflict";
}

/** A conditional change came too late: nothing was changed. */
export class PreconditionFailed extends Rejected {
  override name = "PreconditionFailed";

  /** The version that is there; null where there is no such bandit. */
  etag: string | null = null;
}

/** The decision was erased. */
export class Gone extends Rejected {
  override name = "Gone";
}

/** The body is invalid; `problem.errors` names the fields. */
export class Invalid extends Rejected {
  override name = "Invalid";
}

const REJECTIONS: Record<number, typeof Rejected> = {
  404: NotFound,
  409: Conflict,
  410: Gone,
  412: PreconditionFailed,
  422: Invalid,
};

/** Return the error of a refused call or item. */
export function rejection(status: number, problem: Problem, where: string): Rejected {
  return new (REJECTIONS[status] ?? Rejected)(status, problem, where);
}

/** Return the error of a response that reports no success. */
export function failure(
  status: number,
  content: string,
  headers: Headers,
  where: string,
): BanditError {
  const problem = problemOf(content);
  if (status >= 400 && status < 500 && status !== 429) {
    const error = rejection(status, problem, where);
    if (error instanceof PreconditionFailed) error.etag = headers.get("ETag");
    return error;
  }
  const text = `${where}: ${problemText(status, problem)}`;
  if (status === 429 || status === 503) {
    const retryAfter = headers.get("Retry-After");
    const seconds = retryAfter === null || retryAfter.trim() === "" ? NaN : Number(retryAfter);
    // Of an HTTP date the client picks the pause itself.
    const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : null;
    return new ServiceUnavailable(text, { status, problem, retryAfterMs });
  }
  return new ServiceFailed(text, status, problem);
}

function problemOf(content: string): Problem {
  try {
    const found: unknown = JSON.parse(content);
    return isObject(found) ? found : {};
  } catch {
    return {}; // a page of something on the way has no problem document
  }
}

/** Put status, detail and named fields of a problem document in one line, each once. */
function problemText(status: number, problem: Problem): string {
  const text = `${status} ${problem.detail || problem.title || "without a reason"}`;
  const errors: unknown = problem.errors;
  if (!Array.isArray(errors)) return text;
  const named = errors.filter(isObject).map((one) => `${one.field}: ${one.message}`);
  const more = named.filter((one) => !text.includes(one)); // the detail usually has them all
  return more.length === 0 ? text : `${text} (${more.join("; ")})`;
}

/** Return whether a JSON value is an object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
