"""Files by URI: local paths, `file://`, `s3://` and `gs://` behind one small seam.

    location("s3://bucket/index")      a RemotePath; a local path, and file://, give a pathlib.Path
    RemotePath.read_bytes(), .open()   as pathlib's, with time-outs, retries and errors of their own
    store_of(path)                     the bucket: list, put and verify, swap a pointer

Credentials come from where each provider's own tools look, and are never taken from a URI.
"""

from colbert_core.storage.files import corpus_matches, read_copy
from colbert_core.storage.location import Location, RemotePath, is_uri, location
from colbert_core.storage.store import Store, Stored, store_of, timeout_s

__all__ = [
    "Location",
    "RemotePath",
    "Store",
    "Stored",
    "corpus_matches",
    "is_uri",
    "location",
    "read_copy",
    "store_of",
    "timeout_s",
]
