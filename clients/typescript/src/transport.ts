/**
 * How a call is sent, and when again.
 *
 * A call that may be repeated is repeated when the service does not answer or asks to retry later:
 * ids make that safe. Every failure is one of `errors`. A limit holds for a whole exchange, from
 * connecting to the last byte of the answer.
 */

import { encode } from "./arrays.js";
import { BanditError, ContractBroken, failure, ServiceUnavailable } from "./errors.js";
import { Retry, type RetryOptions } from "./retry.js";

/** The longest time of a timer; a longer one would be over at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;
const MAX_KEEPALIVE_BYTES = 60_000; // of all requests that outlive their page, browsers take 64 KiB

export interface ClientOptions {
  /** Limit of each attempt. Default 30,000. */
  timeoutMs?: number;
  /** The same for calls that take as long as a training round: `train`, snapshots. Default 600,000. */
  slowTimeoutMs?: number;
  /** What happens when the service does not answer; `{ attempts: 1 }`: an error at once. */
  retry?: RetryOptions;
  /** Sent with every request, to a server that has keys. */
  apiKey?: string;
  /** Further headers of every request, for what is between client and service. */
  headers?: Record<string, string>;
  /** Used instead of the global `fetch`. */
  fetch?: typeof globalThis.fetch;
}

/** Options of a single call. */
export interface CallOptions {
  /** Limit of the whole call, attempts and waits included; default: only the client's own. */
  withinMs?: number;
  /** Ends the call, which throws the signal's reason; what was sent may still take effect. */
  signal?: AbortSignal;
}

/** A complete response. */
export interface Received {
  status: number;
  headers: Headers;
  bytes: Uint8Array;
}

/** One call as a value. */
export interface Call<T> {
  method: string;
  path: string;
  /** A JSON value, or bytes; undefined: none. */
  body?: unknown;
  /** Reads the value of a successful answer; throws `Mismatch` where it is none. */
  read: (response: Received) => T;
  /** Sending it twice has the effect of sending it once. */
  repeatable: boolean;
  /** It may take as long as a training round. */
  slow?: boolean;
  /** Headers that say when it may take effect. */
  conditions?: Record<string, string>;
  /** An answer of status 503 may carry a value, too: a probe's. */
  reports503?: boolean;
  /** It is sent although the page that sends it is left. */
  outlivesPage?: boolean;
}

/** An answer that does not follow the contract; the message names what is wrong. */
export class Mismatch extends Error {}

/** Sends calls to one address. */
export class Transport {
  readonly #url: string;
  readonly #timeoutMs: number;
  readonly #slowTimeoutMs: number;
  readonly #retry: Retry;
  readonly #headers: Record<string, string>;
  readonly #fetch: typeof globalThis.fetch;
  /** How many requests were sent. */
  numRequests = 0;

  /** @throws TypeError The address, the key or a limit cannot be used. */
  constructor(url: string, options: ClientOptions) {
    this.#url = address(url);
    this.#timeoutMs = limit("timeoutMs", options.timeoutMs ?? 30_000);
    this.#slowTimeoutMs = limit("slowTimeoutMs", options.slowTimeoutMs ?? 600_000);
    this.#retry = new Retry(options.retry);
    this.#headers = { ...options.headers };
    if (options.apiKey !== undefined) {
      this.#headers["Authorization"] = `Bearer ${visible(options.apiKey)}`;
    }
    this.#fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
  }

  /** How many attempts a call gets. */
  get attempts(): number {
    return this.#retry.attempts;
  }

  /**
   * Send a call, again where that helps, and return its value.
   *
   * @throws BanditError It failed.
   */
  async send<T>(call: Call<T>, options: CallOptions = {}): Promise<T> {
    const { signal, withinMs } = options;
    const deadline = withinMs === undefined ? Infinity : now() + withinMs;
    const limitMs = call.slow === true ? this.#slowTimeoutMs : this.#timeoutMs;
    const content = contentOf(call.body);
    for (let attempt = 1; ; attempt += 1) {
      signal?.throwIfAborted();
      const timeoutMs = Math.min(limitMs, Math.max(deadline - now(), 1));
      try {
        return await this.#attempt(call, content, timeoutMs, signal);
      } catch (error) {
        const wait = this.#retry.waitMs(attempt, error, deadline - now());
        if (wait === null || !call.repeatable) throw error;
        await pause(wait, signal);
      }
    }
  }

  async #attempt<T>(
    call: Call<T>,
    content: BodyInit | undefined,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    this.numRequests += 1;
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), Math.min(timeoutMs, MAX_TIMER_MS));
    const abort = (): void => controller.abort();
    signal?.addEventListener("abort", abort);
    let response: Response;
    let bytes: Uint8Array;
    try {
      const init: RequestInit = {
        method: call.method,
        headers: { ...this.#headers, ...kindOf(content), ...call.conditions },
        redirect: "manual", // a body and a key stay with the address that was given
        signal: controller.signal,
      };
      if (content !== undefined) init.body = content;
      if (call.outlivesPage === true && sizeOf(content) <= MAX_KEEPALIVE_BYTES) init.keepalive = true;
      response = await this.#fetch(this.#url + call.path, init);
      bytes = new Uint8Array(await response.arrayBuffer());
    } catch (error) {
      signal?.throwIfAborted();
      throw this.#unanswered(call, timeoutMs, controller.signal.aborted, error);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
    return this.#outcome(call, response, bytes);
  }

  #outcome<T>(call: Call<T>, response: Response, bytes: Uint8Array): T {
    const where = `${call.method} ${this.#url}${call.path}`;
    const failed = (): BanditError =>
      failure(response.status, new TextDecoder().decode(bytes), response.headers, where);
    const probed = call.reports503 === true && response.status === 503;
    if (!response.ok && !probed) throw failed();
    try {
      return call.read({ status: response.status, headers: response.headers, bytes });
    } catch (error) {
      if (!(error instanceof Mismatch)) throw error;
      if (probed) throw failed(); // a 503 of something else, such as a proxy
      const text = `${where}: the answer does not follow the contract: ${error.message}`;
      throw new ContractBroken(text, null, {}, error);
    }
  }

  #unanswered(
    call: Call<unknown>, timeoutMs: number, timedOut: boolean, cause: unknown,
  ): ServiceUnavailable {
    if (timedOut) {
      const text = `${call.method} ${this.#url}${call.path}: no answer within ${timeoutMs / 1000} s`;
      return new ServiceUnavailable(text, { timedOut, cause });
    }
    return new ServiceUnavailable(`cannot reach the service at ${this.#url}: ${reason(cause)}`, {
      cause,
    });
  }
}

/** Wait; an aborted signal ends that and throws its reason. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
    };
    const stop = (): void => {
      end();
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      end();
      resolve();
    }, Math.min(ms, MAX_TIMER_MS));
    if (signal?.aborted === true) stop();
    else signal?.addEventListener("abort", stop);
  });
}

/** Milliseconds of a clock that never goes back. */
export function now(): number {
  return performance.now();
}

function contentOf(body: unknown): BodyInit | undefined {
  if (body === undefined) return undefined;
  return body instanceof Uint8Array ? (body as unknown as BodyInit) : encode(body);
}

function kindOf(content: BodyInit | undefined): Record<string, string> {
  if (content === undefined) return {};
  const kind = typeof content === "string" ? "json" : "octet-stream";
  return { "Content-Type": `application/${kind}` };
}

function sizeOf(content: BodyInit | undefined): number {
  return typeof content === "string" ? new TextEncoder().encode(content).length : 0;
}

/** Return why a request got no answer: `fetch` has that in the error's cause. */
function reason(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (!(cause instanceof Error)) return String(cause);
  const code = (cause as { code?: unknown }).code;
  return cause.message || (typeof code === "string" ? code : cause.name);
}

function address(url: string): string {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw new TypeError(`not an address: ${JSON.stringify(url)}`);
  }
  if (parsed.protocol !== "http:" && parsed.protocol !== "https:") {
    throw new TypeError(`not an http or https address: ${JSON.stringify(url)}`);
  }
  if (parsed.username !== "" || parsed.password !== "") {
    throw new TypeError("the address: send a user name and a password as `headers`");
  }
  if (parsed.search !== "" || parsed.hash !== "") {
    throw new TypeError("the address: must have no query and no fragment");
  }
  return parsed.origin + parsed.pathname.replace(/\/+$/, "");
}

/** Return an API key that can be sent in a header; an error does not contain it. */
function visible(key: string): string {
  if (!/^[!-~]+$/.test(key)) {
    throw new TypeError("apiKey: must be visible ASCII characters, without spaces or line ends");
  }
  return key;
}

function limit(name: string, ms: number): number {
  if (!(ms > 0)) throw new RangeError(`${name}: must be above 0, not ${ms}`);
  return ms;
}
