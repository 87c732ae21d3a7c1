/** Numbers as they are sent: typed arrays as bytes, which the service decodes faster than lists. */

/** An array whose elements are sent as one value of the binary form. */
export type TypedArray =
  | Uint8Array
  | Uint8ClampedArray
  | Int8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | Float32Array
  | Float64Array
  | BigInt64Array;

/** Nested lists of numbers. */
export type NumberList = readonly (number | NumberList)[];

/** The binary form of an array. */
export interface Envelope {
  dtype: "uint8" | "int64" | "float32" | "float64";
  shape: readonly number[];
  /** The elements in C order and little endian, as base64. */
  data: string;
}

/** An object with named features. */
export type NamedFeatures = { readonly [name: string]: unknown };

/** A context, or the features of an action: numbers, or named features. */
export type Features = NumberList | TypedArray | Envelope | NamedFeatures;

const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/**
 * Return the binary form of an array with several axes.
 *
 * @throws RangeError `shape` has another number of elements.
 */
export function array(elements: TypedArray, shape: readonly number[]): Envelope {
  const size = shape.reduce((product, length) => product * length, 1);
  if (size !== elements.length) {
    throw new RangeError(`shape: ${size} elements, the array has ${elements.length}`);
  }
  return envelope(elements, shape);
}

/** Return the binary form of an array with one axis. */
export function envelope(elements: TypedArray, shape: readonly number[] = [elements.length]): Envelope {
  const [dtype, sent] = wireForm(elements);
  const bytes = new Uint8Array(sent.buffer, sent.byteOffset, sent.byteLength);
  return { dtype, shape, data: base64(LITTLE_ENDIAN ? bytes : swapped(bytes, sent.BYTES_PER_ELEMENT)) };
}

/** Return whether a value is a typed array that can be sent. */
export function isTypedArray(value: unknown): value is TypedArray {
  return (
    ArrayBuffer.isView(value) && !(value instanceof DataView) && !(value instanceof BigUint64Array)
  );
}

function wireForm(elements: TypedArray): [Envelope["dtype"], TypedArray] {
  if (elements instanceof Float32Array) return ["float32", elements];
  if (elements instanceof Float64Array) return ["float64", elements];
  if (elements instanceof Uint8Array || elements instanceof Uint8ClampedArray) {
    return ["uint8", elements];
  }
  if (elements instanceof BigInt64Array) return ["int64", elements];
  return ["float64", Float64Array.from(elements)]; // exact: they have at most 32 bits
}

function swapped(bytes: Uint8Array, width: number): Uint8Array {
  const found = bytes.slice();
  for (let start = 0; start < found.length; start += width) {
    found.subarray(start, start + width).reverse();
  }
  return found;
}

/** Return bytes as base64. */
export function base64(bytes: Uint8Array): string {
  const parts: string[] = [];
  for (let start = 0; start < bytes.length; start += 0x8000) {
    parts.push(String.fromCharCode(...bytes.subarray(start, start + 0x8000)));
  }
  return btoa(parts.join(""));
}

/**
 * Return a body as JSON text.
 *
 * @throws RangeError It holds NaN or an infinite number, which JSON would send as null.
 */
export function encode(body: unknown): string {
  return JSON.stringify(body, (key, value: unknown) => {
    if (typeof value === "number" && !Number.isFinite(value)) {
      throw new RangeError(`${key}: must be a finite number, not ${value}`);
    }
    return isTypedArray(value) ? envelope(value) : value;
  });
}
