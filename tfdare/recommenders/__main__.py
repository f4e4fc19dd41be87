"""``python -m tfdare.recommenders``: see :mod:`tfdare.recommenders.example`."""

import sys

from tfdare.recommenders.example import main

sys.exit(main())
