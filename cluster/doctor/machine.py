"""Checks of this machine and its software: pure functions of what was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from packaging.requirements import Requirement
from packaging.version import Version

from cluster.doctor.findings import Finding, fail, ok, warn

GIB = 2**30
PACKAGES = ("torch", "transformers", "ray", "grpcio", "protobuf", "numpy", "pyarrow")
MIN_PYTHON = (3, 11)
FAST_PATHS = ("amx", "avx512", "avx2", "neon")
FREE_WARN, FREE_FAIL = 0.10, 0.02
OPEN_FILES_WARN, OPEN_FILES_FAIL = 4096, 512
SHM_BYTES = GIB  # Ray's object store here is half of it
LONGEST_RAY_TMP = 24  # Ray's socket paths must stay under 108 characters
SECRET_NAMES = ("TOKEN", "KEY", "PASSWORD", "SECRET", "HEADERS")


def python_version(version: Sequence[int]) -> Finding:
    """Whether Python is new enough."""
    shown = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < MIN_PYTHON:
        least = ".".join(map(str, MIN_PYTHON))
        return fail("python", shown, f"Tartan needs Python {least} or newer")
    return ok("python", shown)


def packages(required: Sequence[str], installed: Mapping[str, str]) -> Iterator[Finding]:
    """Whether what Tartan needs is installed, in versions that it was made for.

    Args:
        required: requirements as the installed package states them.
        installed: versions by name; a package that is missing is not in it.
    """
    named = {
        one.name: one.specifier
        for one in map(Requirement, required)
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }
    for name in PACKAGES:
        wanted, version = named.get(name), installed.get(name)
        if version is None:
            yield fail(name, "not installed", f"pip install '{name}{wanted or ''}'")
        elif wanted is not None and not wanted.contains(Version(version), prereleases=True):
            yield fail(
                name, version, f"this Tartan is made for {wanted}: pip install '{name}{wanted}'"
            )
        else:
            yield ok(name, version)


def kernels(implementation: str) -> Finding:
    """Whether searches run on a fast path of the processor."""
    if any(path in implementation for path in FAST_PATHS):
        return ok("kernels", implementation)
    return warn(
        "kernels",
        implementation,
        "searches are correct and slow: build the native extension (`pip install .`), and unset "
        "TARTAN_KERNELS and TARTAN_ISA",
    )


def processors(usable: int, present: int) -> Finding:
    """How many searches run at once, and whether something allows fewer than there could be."""
    held = ", by affinity or a quota of this container or service" if usable < present else ""
    return ok("processors", f"{usable} of {present}{held}")


def disk(name: str, where: str, free_bytes: int, total_bytes: int) -> Finding:
    """Whether there is room left on a disk."""
    share = free_bytes / max(1, total_bytes)
    found = f"{free_bytes / GIB:,.1f} GiB free of {total_bytes / GIB:,.1f} at {where}"
    remedy = "free some: a new generation needs as much again as the index"
    if share < FREE_FAIL:
        return fail(name, found, remedy)
    return warn(name, found, remedy) if share < FREE_WARN else ok(name, found)


def memory(available_bytes: int, index_bytes: int) -> Finding:
    """Whether the files of an index can lie in memory."""
    found = f"{available_bytes / GIB:,.1f} GiB available, {index_bytes / GIB:,.2f} GiB of index"
    if index_bytes > available_bytes:
        return warn(
            "memory",
            found,
            "searches will read from the disk: serve with fewer shards on this machine, or see "
            "`tartan plan`",
        )
    return ok("memory", found)


def shared_memory(size_bytes: int | None, free_bytes: int) -> Finding:
    """Whether Ray has shared memory; `size_bytes` is None where there is no /dev/shm."""
    remedy = "give the container more (docker run --shm-size=2g; an emptyDir of medium Memory)"
    if size_bytes is None:
        return warn("shared memory", "no /dev/shm", "Ray will use files in /tmp, which is slower")
    found = f"{free_bytes / GIB:,.2f} GiB free of {size_bytes / GIB:,.2f}"
    if free_bytes < SHM_BYTES / 2:
        return fail("shared memory", found, remedy)
    return (
        warn("shared memory", found, remedy)
        if free_bytes < SHM_BYTES
        else ok("shared memory", found)
    )


def open_files(soft: int, hard: int) -> Finding:
    """Whether a gateway may have a connection for each client."""
    found = f"limit {soft:,} (may be raised to {hard:,})"
    remedy = "raise it: `ulimit -n 65536`, or LimitNOFILE= of the service"
    if soft < OPEN_FILES_FAIL:
        return fail("open files", found, remedy)
    return warn("open files", found, remedy) if soft < OPEN_FILES_WARN else ok("open files", found)


def ray_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    """What variables make of Ray. Values that may be secret are not shown."""
    set_here = {name: value for name, value in environment.items() if name.startswith("RAY_")}
    shown = ", ".join(
        name if any(part in name for part in SECRET_NAMES) else f"{name}={value}"
        for name, value in sorted(set_here.items())
    )
    yield ok("ray environment", shown or "nothing set: Ray starts on this machine")
    folder = set_here.get("RAY_TMPDIR", "")
    if len(folder) > LONGEST_RAY_TMP:
        yield warn(
            "RAY_TMPDIR",
            f"{folder} has {len(folder)} characters",
            f"its sockets need short paths: at most {LONGEST_RAY_TMP}; /tmp is used instead",
        )
    if set_here.get("RAY_AUTH_MODE") == "disabled" and "RAY_ADDRESS" in set_here:
        yield warn(
            "RAY_AUTH_MODE",
            "disabled",
            "whoever reaches the cluster runs code on it: RAY_AUTH_MODE=token",
        )
