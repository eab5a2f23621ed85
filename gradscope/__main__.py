"""``python -m gradscope``: the same as ``gradscope``."""

import sys

from gradscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
