"""Every error that Tartan raises on purpose, as one tree.

    TartanError
    ├── InvalidInput            the caller's values are wrong; nothing was done          exit 2
    │   ├── CorpusError         a document of the corpus cannot be indexed               exit 3
    │   ├── TrainingDataError   a training tuple cannot be trained on                    exit 3
    │   ├── QueryError          a query, k, or a filter cannot be searched               exit 2
    │   └── ModelMismatch       the model is not the one that the index was built with   exit 4
    ├── ModelError              a checkpoint cannot be loaded                            exit 4
    ├── IndexMissing            there is no index at this place                          exit 5
    ├── IndexCorrupt            a file of the index is missing, truncated or altered     exit 1
    ├── IndexExists             the place to write to is taken                           exit 6
    ├── AlreadyRunning          another operation of its kind is under way               exit 6
    ├── StorageError            a bucket is missing, or refuses                          exit 11
    ├── AddressInUse            the address to listen on is taken                        exit 10
    ├── NotAuthenticated        a server does not know who asks: no key, or a wrong one  exit 12
    ├── NotAllowed              the key is known, and its role may not do this           exit 12
    ├── Unavailable             a server or a shard does not answer; may be retried      exit 7
    ├── Overloaded              a limit on work in progress is reached; may be retried   exit 7
    ├── DeadlineExceeded        the time that the caller gave is over                    exit 8
    ├── RolledBack              a rollout was given up; what was served still is         exit 9
    └── JobFailed               a worker failed for good                                 exit 9
        └── EncodeFailed        the model failed on passages of a unit                   exit 9

A message names the value, the limit and the remedy. `cluster/wire/status.py` holds the one table
from these classes to gRPC status codes; `exit_code` below is the command line's.
"""

from __future__ import annotations


class TartanError(Exception):
    """Base of all errors that Tartan raises on purpose."""

    exit_code = 1


class InvalidInput(TartanError):
    """A value that the caller gave is wrong; no work has been done."""

    exit_code = 2


class CorpusError(InvalidInput):
    """A document cannot be indexed; the message names its file, line and id."""

    exit_code = 3


class TrainingDataError(InvalidInput):
    """A training tuple cannot be trained on; the message names its file, line and ids."""

    exit_code = 3


class QueryError(InvalidInput):
    """A query, `k`, or a filter cannot be searched."""


class ModelMismatch(InvalidInput):
    """The model is not the one that the index was built with."""

    exit_code = 4


class ModelError(TartanError):
    """A checkpoint cannot be found, read, or made into an encoder."""

    exit_code = 4


class IndexMissing(TartanError):
    """There is no index at this place."""

    exit_code = 5


class IndexCorrupt(TartanError):
    """A file of the index is missing, truncated or altered; the message names it."""

    exit_code = 1


class IndexExists(TartanError):
    """The place to write to is taken."""

    exit_code = 6


class AlreadyRunning(TartanError):
    """Another operation of its kind is under way; the message says which, and since when."""

    exit_code = 6


class StorageError(TartanError):
    """A bucket is missing, or refuses what was asked of it; the message names the URI."""

    exit_code = 11


class AddressInUse(TartanError):
    """The address to listen on is taken, or is not one of this machine's."""

    exit_code = 10


class NotAuthenticated(TartanError):
    """A server does not know who asks: there was no API key, or a wrong one."""

    exit_code = 12


class NotAllowed(TartanError):
    """A server knows who asks, and the role of the key may not do this."""

    exit_code = 12


class Unavailable(TartanError):
    """A server or a shard does not answer; the call may be retried."""

    exit_code = 7


class Overloaded(TartanError):
    """A limit on work in progress is reached; the call may be retried later."""

    exit_code = 7


class DeadlineExceeded(TartanError):
    """The time that the caller gave is over; the message says what was waited for."""

    exit_code = 8


class RolledBack(TartanError):
    """A rollout was given up before anybody was served by it; the message says why."""

    exit_code = 9


class JobFailed(TartanError):
    """A worker failed for good; the message names the unit of work and the cause."""

    exit_code = 9


class EncodeFailed(JobFailed):
    """The model failed on passages of a unit; the driver then looks for the one to blame."""
