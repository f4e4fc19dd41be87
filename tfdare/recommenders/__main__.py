import sys

from tfdare.recommenders.example import main

sys.exit(main())
