"""Entry point of the Flex Template: ``prepare`` with the template's parameters as options."""

import sys

from beam_jobs.build_sequences import main

if __name__ == "__main__":
    sys.exit(main())
