"""``python -P -m holdfast.cli.github``: what ``action.yml`` runs."""

import sys

from holdfast.cli.github.action import main

if __name__ == "__main__":
    sys.exit(main())
