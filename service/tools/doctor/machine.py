"""Checks of the machine and of the settings: versions, processors, GPU, encoders, keys, port."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import httpx

from service.settings import Settings
from service.tools.doctor.check import Check

PACKAGES = ("bandexa", "torch", "torchvision", "numpy", "safetensors", "fastapi", "uvicorn")


def versions(_: Settings) -> Iterator[Check]:
    """Check that the packages are installed, and list their versions."""
    found = [f"Python {platform.python_version()}"]
    missing = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if not missing:
        from service.store.opening import ENGINE  # it needs the packages

        found.insert(1, ENGINE)
    yield Check("versions", "ok", ", ".join(found))
    if missing:
        names = ", ".join(missing)
        yield Check("packages", "wrong", f"{names}: not installed", "pip install bandexa")


def processors(settings: Settings) -> Iterator[Check]:
    """Compare the processors with the threads that are configured."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    usable = cpus if quota is None else min(float(cpus), quota)
    workers = settings.workers
    processes = 1 if workers == 1 else workers + 1  # and the one that writes the store
    wanted = processes * settings.service_threads
    wanted += settings.trainer_processes * settings.trainer_threads
    found = f"{usable:g} processors; {settings.service_threads} service and"
    found += f" {settings.trainer_processes * settings.trainer_threads} trainer threads"
    found += "" if workers == 1 else f", of {workers} workers and the process that writes for them"
    if wanted > max(2.0, usable):
        lower = "service_threads or trainer_threads"
        lower += "" if settings.trainer_processes == 1 else ", or trainer_processes"
        lower = lower if workers == 1 else f"workers, {lower}"
        remedy = f"lower {lower}, or add processors"
        yield Check("processors", "note", f"{found}: they compete", remedy)
    elif usable < 2:
        remedy = "the trainer yields to requests, but selects are slower while it trains"
        yield Check("processors", "note", found, remedy)
    else:
        yield Check("processors", "ok", found)


def _cpu_quota() -> float | None:
    """Return how many processors this container may use, None for all."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def device(settings: Settings) -> Iterator[Check]:
    """Check the GPU that the settings ask for."""
    from service.training.worker.device import built_for_cuda, cuda_name

    name = cuda_name()
    if name is not None:
        used = "not used: device = cpu" if settings.device == "cpu" else "encoders train on it"
        yield Check("device", "ok", f"{name}: {used}")
    elif settings.device == "cuda":
        built = "" if built_for_cuda() else "; this torch is built without CUDA"
        yield Check(
            "device", "wrong", f"device = cuda, but none can be used{built}",
            "install the driver and torch's CUDA build, give the container the GPU, or set auto",
        )  # fmt: skip
    else:
        yield Check("device", "ok", "no GPU: encoders train on the CPU")


def encoders(settings: Settings) -> Iterator[Check]:
    """Check own encoders and weight files."""
    from bandexa_core.encoders import EncoderRegistry

    try:
        EncoderRegistry(settings.encoders, settings.weights)
    except ValueError as error:
        yield Check("encoders", "wrong", str(error), "correct [encoders] or [weights]")
        return
    if settings.encoders or settings.weights:
        names = ", ".join([*settings.encoders, *settings.weights])
        yield Check("encoders", "ok", f"registered: {names}")


def access(settings: Settings, keys_needed: Callable[[Settings], bool]) -> Check:
    """Check who may call the server."""
    try:
        needed = keys_needed(settings)
    except ValueError as error:
        return Check("access", "wrong", str(error), "see docs/security.md")
    if needed:
        return Check("access", "ok", "callers need an API key")
    if settings.allow_anonymous:
        return Check(
            "access", "note", "every caller may do everything", "`bandexa keygen` makes keys"
        )
    return Check("access", "ok", "no keys, so it listens on loopback only")


def port(settings: Settings) -> Iterator[Check]:
    """Check whether the port is free, or a server answers there."""
    if settings.port == 0:
        yield Check("port", "ok", "the server takes a free one")
        return
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            yield _taken(settings, where, error)
            return
    yield Check("port", "ok", f"{where} is free: no server runs there")


def _taken(settings: Settings, where: str, error: OSError) -> Check:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    shown = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.tls_certificate is None else "https"
    url = f"{scheme}://{shown}:{settings.port}/healthz"
    try:
        # Its certificate may be for another name: nothing is sent, and only who answers is asked.
        answer = httpx.get(url, timeout=2, trust_env=False, verify=False).json()
        if (
            isinstance(answer, dict)
            and {"status": "alive", "trainer": None}.items() <= answer.items()
        ):
            return Check("port", "ok", f"{where}: a bandexa server answers there")
    except (httpx.HTTPError, ValueError):
        pass
    remedy = "use another port (port = ...), or end the program that has it"
    return Check("port", "wrong", f"{where} is not available: {error.strerror}", remedy)
