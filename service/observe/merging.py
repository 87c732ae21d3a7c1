"""Merges the metrics of several processes of one server: each sample says whose it is."""

from __future__ import annotations

from collections.abc import Mapping


def merged(texts: Mapping[str, bytes]) -> bytes:
    """Return metrics in Prometheus' text format as one such text.

    Every sample gets the label `worker`, so that a sum over it is that of the server.

    Args:
        texts: Those of each process, by its name.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, text in texts.items():
        name = ""
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                if name not in heads:
                    heads[name], samples[name] = [line], []
            elif line.startswith("# TYPE "):
                if len(heads[name]) == 1:
                    heads[name].append(line)
            elif line:
                samples[name].append(_labelled(line, worker))
    lines = [line for name, head in heads.items() for line in (*head, *samples[name])]
    return "".join(f"{line}\n" for line in lines).encode()


def _labelled(sample: str, worker: str) -> str:
    end = sample.find("{")
    if 0 <= end < sample.find(" "):
        return f'{sample[: end + 1]}worker="{worker}",{sample[end + 1 :]}'
    name, _, rest = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {rest}'
