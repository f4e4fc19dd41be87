"""``python -m serving.server``: the same as ``tfdare serve``."""

import sys

from serving.server.main import main

if __name__ == "__main__":
    sys.exit(main())
