"""Whether a path lies on a disk that several machines share."""

from __future__ import annotations

import os
import re
from pathlib import Path

VARIABLE = "HOLDFAST_DISK"  # "network" or "local", where the system's word is wrong
_MOUNTS = Path("/proc/self/mountinfo")
# What Linux calls the file systems whose locks or shared memory other machines do not see as this one does.
_SHARED = re.compile(
    r"nfs\d?|lustre|gpfs|beegfs(_nodev)?|cifs|smb\d?|smbfs|ceph|fuse\.ceph.*|glusterfs|fuse\.glusterfs|afs|9p|wekafs|"
    r"panfs|pvfs2|orangefs|ocfs2|gfs2?|virtiofs|fuse\.(sshfs|s3fs|gcsfuse|juicefs|mount-s3|blobfuse2?|goofys|rclone)"
)


def is_shared(path: Path) -> bool:
    """Whether a path is, or would be, on a network file system; the environment may say otherwise."""
    told = os.environ.get(VARIABLE)
    if told in ("network", "local"):
        return told == "network"
    return _SHARED.fullmatch(_type_of(path)) is not None


def _type_of(path: Path) -> str:
    """The type of the file system that a path is on; empty where the system does not say."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
        place = path.absolute()
        while not place.exists():
            place = place.parent
        place = place.resolve()
    except OSError:
        return ""
    best, found = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        # Blanks and the like stand as octal numbers.
        root = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        # Of two mounts at one place the later covers the earlier.
        if (root == place or root in place.parents) and len(root.parts) >= best:
            best, found = len(root.parts), after.split(" ", 1)[0]
    return found
