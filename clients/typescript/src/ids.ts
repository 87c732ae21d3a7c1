/** Ids that make repeating a call safe, and decisions that the service does not know. */

const NODES_CRYPTO = "node:crypto";
// A global of browsers and of Node 20; Node 18 has it in a module alone.
const crypto: { getRandomValues(bytes: Uint8Array): Uint8Array } =
  globalThis.crypto ??
  ((await import(/* webpackIgnore: true */ /* @vite-ignore */ NODES_CRYPTO)) as typeof import("node:crypto")).webcrypto;
const PREFIX = "fallback:";
const FALLBACK = /^fallback:[0-9a-f]{32}$/;

/**
 * Return a unique id: 48 bits of milliseconds and 80 random bits, in hex.
 *
 * The time comes first, as in UUID version 7 (RFC 9562, section 6.1), so that consecutive ids are
 * neighbours in the service's index. Storing decisions then writes few pages of it.
 */
export function newId(): string {
  const random = crypto.getRandomValues(new Uint8Array(10));
  const digits = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return Date.now().toString(16).padStart(12, "0") + digits;
}

/** Return the id of a decision that the caller makes without the service. */
export function newFallbackId(): string {
  return PREFIX + newId();
}

/** Return whether a decision is one of `newFallbackId`. */
export function isFallback(decisionId: string): boolean {
  return FALLBACK.test(decisionId);
}
