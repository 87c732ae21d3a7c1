/** The client of Bandexa: typed calls, retries, a fallback, a queue of rewards. */

export type * from "./answers.js";
export { array, type Envelope, type Features, type NamedFeatures, type TypedArray } from "./arrays.js";
export { BanditClient, type Conditions } from "./client.js";
export {
  BanditError,
  Conflict,
  ContractBroken,
  Gone,
  Invalid,
  NotFound,
  PreconditionFailed,
  type Problem,
  Rejected,
  ServiceFailed,
  ServiceUnavailable,
} from "./errors.js";
export {
  QueueClosed,
  QueueFull,
  RewardQueue,
  type RewardQueueOptions,
  type Spool,
  Undelivered,
  type WaitingReward,
} from "./queue.js";
export { Retry, type RetryOptions } from "./retry.js";
export type { components, operations } from "./schema.js";
export type { CallOptions, ClientOptions } from "./transport.js";
