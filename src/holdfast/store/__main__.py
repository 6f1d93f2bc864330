"""A run that is held against its digests by a process of its own: its digest or its damage as JSON. See ``beside``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from holdfast.records.errors import StoreError
from holdfast.store.store import Store


def main() -> None:
    """Check the run at the path that is given."""
    try:
        with Store(Path(sys.argv[1])) as store:
            answer = {"digest": store.digest()}
    except StoreError as error:
        answer = {"damage": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
