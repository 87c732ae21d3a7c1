/**
 * Rewards that wait, in files: what a process could not deliver, a later one does. For Node.
 *
 * Each spool appends to a file of its own, whose name says whose it is. A spool that begins takes
 * over the files whose owners have ended: it renames one, which only one process can do, copies its
 * rewards into its own file, and deletes it. A kill in between leaves the renamed file to the next
 * one; a reward that is then sent twice has a `reward_id` and counts once.
 *
 * A line is one reward as JSON. It is written with one system call and not synced: it survives the
 * process, also by SIGKILL, but not a power loss. A line that cannot be read is reported, appended
 * to `damaged.txt`, and stops no other.
 */

import {
  appendFileSync,
  closeSync,
  existsSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  utimesSync,
  writeSync,
} from "node:fs";
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { join } from "node:path";

import { isObject } from "./errors.js";
import type { Spool, WaitingReward } from "./queue.js";

const SUFFIX = ".waiting";
const DAMAGED = "damaged.txt";
const COMPACT_ABOVE = 10_000; // lines of delivered rewards
const TOUCHED_EVERY_MS = 10_000;
const ABANDONED_AFTER_MS = 120_000; // without a touch, on a machine whose processes are not seen here

export interface FileSpoolOptions {
  /** Gets lines for people. Default: `console.warn`. */
  log?: (line: string) => void;
}

/** The file of one queue in a folder that queues of any number of processes share. */
export class FileSpool implements Spool {
  readonly #folder: string;
  readonly #log: (line: string) => void;
  readonly #timer: NodeJS.Timeout;
  #path: string;
  #file: number;
  #numLines = 0;
  #isTorn = false;
  /** Lines of adopted files that are no rewards. */
  numDamaged = 0;

  /** @throws Error The folder cannot be written. */
  constructor(folder: string, options: FileSpoolOptions = {}) {
    this.#folder = folder;
    this.#log = options.log ?? ((line) => console.warn(line));
    mkdirSync(folder, { recursive: true });
    [this.#path, this.#file] = this.#newFile();
    this.#timer = setInterval(() => this.#touch(), TOUCHED_EVERY_MS);
    this.#timer.unref();
  }

  /** Append a reward. */
  add(report: WaitingReward): void {
    if (fstatSync(this.#file).nlink === 0) {
      closeSync(this.#file); // it was taken for abandoned; what it held is delivered elsewhere
      [this.#path, this.#file] = this.#newFile();
      this.#isTorn = false;
    }
    const start = this.#isTorn ? "\n" : ""; // the rest of a line that was not written whole
    const line = Buffer.from(`${start}${JSON.stringify(report)}\n`);
    this.#isTorn = true;
    if (writeSync(this.#file, line) !== line.length) {
      throw new Error(`${this.#path}: a reward was not written whole`);
    }
    this.#isTorn = false;
    this.#numLines += 1;
  }

  /** Drop the rewards that wait no longer, now or when they are many. */
  settled(waiting: readonly WaitingReward[]): void {
    if (waiting.length === 0) {
      ftruncateSync(this.#file, 0);
      this.#numLines = 0;
      this.#isTorn = false;
    } else if (this.#numLines > 2 * waiting.length + COMPACT_ABOVE) {
      const [oldPath, oldFile] = [this.#path, this.#file];
      [this.#path, this.#file] = this.#newFile();
      this.#numLines = 0;
      this.#isTorn = false;
      for (const report of waiting) this.add(report);
      unlinkSync(oldPath);
      closeSync(oldFile);
    }
  }

  /** Take over the rewards of spools that have ended; they are in this spool's file then. */
  adopt(): WaitingReward[] {
    const found: WaitingReward[] = [];
    for (const name of readdirSync(this.#folder).filter((each) => each.endsWith(SUFFIX)).sort()) {
      const path = join(this.#folder, name);
      if (path === this.#path || !hasEnded(path, name)) continue;
      const taken = join(this.#folder, newName());
      try {
        renameSync(path, taken);
      } catch (error) {
        if (isMissing(error)) continue; // another spool adopts it
        throw error;
      }
      const reports = this.#read(taken);
      for (const report of reports) this.add(report);
      unlinkSync(taken);
      found.push(...reports);
    }
    if (found.length > 0) {
      this.#log(`${found.length} rewards of an earlier process are delivered now`);
    }
    return found;
  }

  /** Leave the file to the next spool; an empty one is deleted. */
  close(): void {
    clearInterval(this.#timer);
    const isEmpty = fstatSync(this.#file).size === 0;
    closeSync(this.#file);
    if (!existsSync(this.#path)) return;
    // The process goes on, and the file is no longer its own.
    if (isEmpty) unlinkSync(this.#path);
    else renameSync(this.#path, join(this.#folder, `0-left-${randomBytes(8).toString("hex")}${SUFFIX}`));
  }

  #newFile(): [string, number] {
    const path = join(this.#folder, newName());
    return [path, openSync(path, "ax", 0o600)];
  }

  #touch(): void {
    const time = new Date();
    try {
      utimesSync(this.#path, time, time);
    } catch (error) {
      this.#log(`${this.#path}: ${error}`); // the next touch may succeed
    }
  }

  #read(path: string): WaitingReward[] {
    const found: WaitingReward[] = [];
    for (const [number, line] of readFileSync(path, "utf8").split("\n").entries()) {
      if (line === "") continue;
      const report = rewardOf(line);
      if (report !== undefined) {
        found.push(report);
        continue;
      }
      this.numDamaged += 1;
      this.#log(`${path}: line ${number + 1} is no reward, see ${DAMAGED}`);
      appendFileSync(join(this.#folder, DAMAGED), `${line}\n`);
    }
    return found;
  }
}

/** Return a name that says who owns the file: machine, process, and when that began. */
function newName(): string {
  const owner = [encodeURIComponent(hostname()), process.pid, beginOf(process.pid) ?? 0];
  return `${owner.join("~")}~${randomBytes(8).toString("hex")}${SUFFIX}`;
}

/** Return whether the owner of a file has ended, or does not touch it any more. */
function hasEnded(path: string, name: string): boolean {
  const [machine, pid, begin] = name.split("~");
  if (pid === undefined) return true; // it was left by a close
  if (machine !== encodeURIComponent(hostname())) {
    try {
      return Date.now() - statSync(path).mtimeMs > ABANDONED_AFTER_MS;
    } catch (error) {
      if (isMissing(error)) return false; // another spool adopts it
      throw error;
    }
  }
  try {
    process.kill(Number(pid), 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
  return (beginOf(Number(pid)) ?? 0) !== Number(begin); // another process has its number
}

/** Return when a process began, in the system's ticks; undefined: the system does not say. */
function beginOf(pid: number): number | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)?.split(" ");
    return Number(fields?.[19]);
  } catch {
    return undefined; // no Linux, or the process has ended
  }
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "ENOENT";
}

/** Return the reward of a line; undefined: it is none. */
function rewardOf(line: string): WaitingReward | undefined {
  let found: unknown;
  try {
    found = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (!isObject(found)) return undefined;
  const ids = [found["decision_id"], found["reward_id"]];
  const isReward = typeof found["reward"] === "number" || isObject(found["metrics"]);
  return ids.every((id) => typeof id === "string") && isReward
    ? (found as unknown as WaitingReward)
    : undefined;
}
