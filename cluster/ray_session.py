"""Starting Ray, or joining the one that is there: the only place that calls `ray.init`.

    with ray_session(purpose="index build") as session:
        ...                                  # session.cpus, session.gpus, session.started

Three cases, in this order: this process already has Ray (it is used, and left running);
`RAY_ADDRESS` names a cluster (it is joined, and left running); otherwise a private Ray starts
here and ends with the block. Ray's own files live in a short folder of their own
(its socket paths must stay under 108 characters), kept only where its logs may explain a failure.
Token authentication, on by default since Ray 2.60, needs nothing from the user: Ray writes a token
under the home directory, and where that is impossible this process makes one for itself alone. The
token that is there is presented to a cluster that is joined.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Ray reads these when it is imported, so they are set before it is.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._raylet import Config  # type: ignore[attr-defined]  # native, without stubs

from cluster.interrupts import interruptible
from colbert_core.errors import JobFailed, TartanError, Unavailable

OBJECT_STORE_BYTES = 512 * 2**20  # paths and tables travel through Ray, never embeddings
REMOVE_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 2.0
# Of Ray's workers: their niceness, and whether some are begun ahead, which nobody will need.
SERVING = {"worker_niceness": 0, "prestart_worker_first_driver": False}
START_ATTEMPTS = 2  # a raylet has 30 s to start; a busy machine may miss it once
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RaySession:
    """The Ray that is in use. `cpus` and `gpus` are what the cluster had when it was entered."""

    address: str
    started: bool
    cpus: int
    gpus: int
    node_count: int

    def answers(self) -> bool:
        """Whether Ray's head can be reached still."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), ANSWER_TIMEOUT_S).close()
        except OSError:
            return False
        return True


@contextmanager
def ray_session(
    *, purpose: str, cpus: int | None = None, answers: bool = False
) -> Iterator[RaySession]:
    """Use, join or start Ray, and shut down only what was started here.

    Args:
        purpose: what Ray is wanted for; named in errors.
        cpus: CPUs of a Ray that is started here (default: all of this machine's).
        answers: somebody waits for what its workers do, which then have the priority of this
            process where Ray is started here. Ray's own default is the low one of batch work.

    Raises:
        Unavailable: the cluster at `RAY_ADDRESS` does not answer, or no local Ray could start.
    """
    if ray.is_initialized():
        yield _describe(started=False)
    elif os.environ.get("RAY_ADDRESS"):
        _join(os.environ["RAY_ADDRESS"], purpose)
        try:
            yield _describe(started=False)
        finally:
            ray.shutdown()
    else:
        folder = _start(purpose, cpus, SERVING if answers else {})
        keep = False
        try:
            yield _describe(started=True)
        except Exception as error:
            keep = isinstance(error, JobFailed | Unavailable) or not isinstance(error, TartanError)
            raise
        finally:
            ray.shutdown()
            if keep:
                _log.warning("Ray's own logs are kept in %s", folder)
            else:
                _remove(folder)


def _join(address: str, purpose: str) -> None:
    _offer_token()
    try:
        ray.init(address=address, log_to_driver=_wants_logs(), logging_level=logging.ERROR)
    except Exception as error:
        raise Unavailable(
            f"cannot join the Ray cluster at RAY_ADDRESS={address} for {purpose}: {error}. "
            "Check the address and the cluster's token (RAY_AUTH_TOKEN or ~/.ray/auth_token), "
            "or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def _start(purpose: str, cpus: int | None, settings: Mapping[str, object]) -> Path:
    """Start a private local Ray; returns the folder that holds its sockets and logs."""
    _ensure_token()
    last: Exception | None = None
    for attempt in range(1, START_ATTEMPTS + 1):
        folder = Path(tempfile.mkdtemp(prefix="tartan-ray-", dir=_short_tmp()))
        # A signal ends this function at any point. Hooks run in reverse order, so that the folder
        # goes after Ray's own hook has ended the processes that write to it.
        remove = atexit.register(functools.partial(_remove, folder))
        try:
            with interruptible():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=_wants_logs(),
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(folder),
                    _system_config=dict(settings),
                )
        except SystemExit:  # SIGTERM: Ray's handlers exit, with 1 or 15
            raise SystemExit(signal.SIGTERM) from None
        except Exception as error:
            last = error
            ray.shutdown()
            atexit.unregister(remove)
            if attempt < START_ATTEMPTS:
                _remove(folder)  # the logs of the last attempt are enough
        else:
            atexit.unregister(remove)
            return folder
    raise Unavailable(
        f"Ray did not start on this machine for {purpose} in {START_ATTEMPTS} attempts: {last}. "
        f"Its logs are in {folder}; a busy or memory-starved machine may need another try"
    ) from last


def _describe(*, started: bool) -> RaySession:
    resources = ray.cluster_resources()
    return RaySession(
        address=str(ray.get_runtime_context().gcs_address),
        started=started,
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        node_count=sum(1 for node in ray.nodes() if node["Alive"]),
    )


def _offer_token() -> None:
    """Present the token that is at hand to the cluster that is joined. Ray does so by itself only
    where it starts a cluster; one without authentication takes a driver with a token, too."""
    if os.environ.get("RAY_AUTH_MODE") or not _has_token():
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")  # Ray has read its settings already, when it was imported


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or _home_token().exists()


def _home_token() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _ensure_token() -> None:
    """Give this process and its children a token of their own where Ray could not write one."""
    if _has_token():
        return
    folder = _home_token().parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
    except OSError:
        pass
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _remove(folder: Path) -> None:
    """Remove Ray's folder, and first what would write into it again: Ray's own agents outlive it by
    seconds where it was ended while it started."""
    end = time.monotonic() + REMOVE_TIMEOUT_S
    while ((left := _processes_of(folder)) or folder.exists()) and time.monotonic() < end:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def _processes_of(folder: Path) -> list[int]:
    """The processes that run a program of Ray's own with this folder among their arguments."""
    wanted = (os.fsencode(folder), os.fsencode(Path(ray.__file__).parent))
    found = []
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            if all(part in arguments.read_bytes() for part in wanted):
                found.append(int(arguments.parent.name))
    return found


def _short_tmp() -> str:
    """A writable folder whose name leaves room for Ray's socket paths."""
    chosen = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return chosen if len(chosen) <= 24 else "/tmp"


def _wants_logs() -> bool:
    """Whether the workers' own output is shown; their errors reach the caller either way."""
    return os.environ.get("TARTAN_RAY_LOGS", "") not in ("", "0")
