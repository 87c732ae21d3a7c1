/** What is sent and answered, by names; and how an answer is distinguished from anything else. */

import type { Features } from "./arrays.js";
import { isObject, type Problem, type Rejected, rejection } from "./errors.js";
import { type components, FIELDS, type operations } from "./schema.js";
import { Mismatch, type Received } from "./transport.js";

type Schemas = components["schemas"];
/** The JSON body of a call, by its operation id. */
export type Body<Id extends keyof operations> = operations[Id]["body"];

// -- requests -------------------------------------------------------------------------------------

/** An id of the catalogue, or an action with its own features. */
export type Candidate = string | { id: string; features?: Features };

/** One select. */
export type SelectRequest = Omit<Schemas["SelectRequest"], "context" | "candidates"> & {
  context: Features;
  /** Ids of the catalogue, or actions with features; none: all enabled actions. */
  candidates?: readonly Candidate[] | null;
};

/** One outcome of a decision: a reward, or several metrics by name. */
export type RewardReport = Schemas["RewardRequest"];

/** A context whose candidates are scored. */
export type ScoreRequest = Pick<SelectRequest, "context" | "candidates">;

/** The configuration of a bandit; docs/bandits.md explains the keys. */
export type BanditSpec = Schemas["BanditSpec"];

/** An action of the catalogue. */
export type CatalogueAction = { id: string; features?: Features; enabled?: boolean };

// -- answers --------------------------------------------------------------------------------------

/** The answer to a select. With `fallback` the service did not answer, and does not know it. */
export type Selection = Omit<Schemas["SelectAnswer"], "actions" | "score"> & {
  /** All chosen actions, best first. */
  actions: Schemas["ActionRef"][];
  /** The sampled value of the first action; null for a fallback. */
  score: number | null;
  /** Whether the action is the caller's own: without score and propensity, at snapshot -1. */
  fallback: boolean;
};

/** What became of a reward; "fallback": the decision was the caller's own. */
export type RewardStatus = Omit<Schemas["RewardAnswer"], "status"> & {
  status: Schemas["RewardAnswer"]["status"] | "fallback";
};
export type ActivationStatus = {
  status: Schemas["ActivateAnswer"]["status"] | "fallback";
};
export type BanditState = Schemas["BanditAnswer"];
/** A bandit with the version of its configuration, for a change; "": the answer had none. */
export type TaggedBandit = BanditState & { etag: string };
export type Plan = Schemas["PlanAnswer"];
export type Catalogue = Schemas["CatalogueAnswer"];
export type ActionState = Schemas["ActionState"];
export type Scores = Schemas["ScoreAnswer"];
export type Explanation = Schemas["DecisionAnswer"];
export type Values = Schemas["ValuesAnswer"];
export type AuditTrail = Schemas["AuditList"];
export type ChallengerState = Schemas["ChallengerState"];
export type NotedFindings = Schemas["FindingList"];
export type Replayed = Schemas["ReplayAnswer"];
export type Training = Schemas["TrainAnswer"];
export type Snapshots = Schemas["SnapshotList"];
export type SnapshotState = Schemas["SnapshotAnswer"];
export type Imported = Schemas["ImportAnswer"];
export type Advice = Schemas["AdviceAnswer"];
export type EvaluationState = Schemas["EvaluationState"];
export type Voided = Schemas["VoidAnswer"];
export type Corrected = Schemas["CorrectAnswer"];
export type Erased = Schemas["EraseAnswer"];
export type Compacted = Schemas["CompactAnswer"];
export type Readiness = Schemas["Health"];
export type LearnState = Schemas["LearnAnswer"];
export type ClockState = Schemas["ClockAnswer"];

/** A page of the log: decisions with all that came of them. */
export interface LogPage {
  rows: Record<string, unknown>[];
  /** The `after` of the next page. */
  row: number;
  /** The `moment` of all further pages. */
  moment: string;
  more: boolean;
}

// -- reading --------------------------------------------------------------------------------------

const KINDS: Record<string, (value: unknown) => boolean> = {
  string: (value) => typeof value === "string",
  integer: Number.isInteger,
  number: (value) => typeof value === "number",
  boolean: (value) => typeof value === "boolean",
  list: Array.isArray,
  object: isObject,
};

/** Return a decoded JSON value that is an answer of a kind. */
export function checked<Name extends keyof typeof FIELDS & keyof Schemas>(
  name: Name,
  value: unknown,
): Schemas[Name] {
  if (!isObject(value)) throw new Mismatch(`expected a JSON object, found ${shown(value)}`);
  for (const [field, kind] of Object.entries<string>(FIELDS[name])) {
    if (KINDS[kind]?.(value[field]) !== true) {
      throw new Mismatch(`${field}: expected ${kind}, found ${shown(value[field])}`);
    }
  }
  return value as Schemas[Name];
}

/** Return the JSON value of a response. */
export function json(response: Received): unknown {
  return parsed(new TextDecoder().decode(response.bytes));
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Mismatch(`expected JSON, found ${shown(text)}`);
  }
}

/** Return a function that reads an answer of a kind. */
export function reads<Name extends keyof typeof FIELDS & keyof Schemas>(
  name: Name,
): (response: Received) => Schemas[Name] {
  return (response) => checked(name, json(response));
}

/** Return a bandit with the version of its configuration. */
export function tagged(response: Received): TaggedBandit {
  return { ...reads("BanditAnswer")(response), etag: response.headers.get("ETag") ?? "" };
}

/** Return a function that reads the answer of a batch, item by item. */
export function readsItems<T>(
  num: number,
  read: (value: unknown, number: number) => T,
): (response: Received) => (T | Rejected)[] {
  return (response) => {
    const { items } = checked("SelectBatchAnswer", json(response)) as { items: unknown[] };
    if (items.length !== num) {
      throw new Mismatch(`a batch of ${num} items was answered with ${items.length}`);
    }
    return items.map((row, number) => {
      if (!isObject(row) || !Number.isInteger(row["code"])) {
        throw new Mismatch(`item ${number}: expected a code, found ${shown(row)}`);
      }
      const status = row["code"] as number;
      if (status < 400) return read(row["answer"], number);
      const problem = isObject(row["error"]) ? (row["error"] as Problem) : {};
      return rejection(status, problem, `item ${number} of a batch`);
    });
  };
}

/** Return the answer to a select, and refuse that to another one. */
export function selection(value: unknown, asked: string | null | undefined): Selection {
  const found = checked("SelectAnswer", value);
  checked("ActionRef", found.action);
  if (typeof asked === "string" && found.decision_id !== asked) {
    throw new Mismatch(`decision ${shown(found.decision_id)} was not asked for, ${shown(asked)} was`);
  }
  // The service lists the actions when there are several.
  return { ...found, actions: found.actions ?? [found.action], fallback: false };
}

/** Return a page of the log; its last line says that it is whole. */
export function logPage(response: Received): LogPage {
  const lines = new TextDecoder().decode(response.bytes).split("\n").filter((line) => line !== "");
  const rows = lines.map((line): Record<string, unknown> => {
    const row: unknown = parsed(line);
    if (!isObject(row)) throw new Mismatch(`expected an object a line, found ${shown(row)}`);
    return row;
  });
  const first = rows[0];
  const last = rows.at(-1);
  if (first?.["kind"] !== "bandit" || last?.["kind"] !== "end") {
    const detail = last?.["detail"] ?? "its last line is missing";
    throw new Mismatch(`the log broke off: ${detail}`);
  }
  return {
    rows,
    row: last["row"] as number,
    moment: first["moment"] as string,
    more: last["more"] === true,
  };
}

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? "nothing").slice(0, 80);
}
