"""`make torture`: break what can break, look at what is left, and say so in a table and one line of JSON."""

from __future__ import annotations

import sys

from .campaign import main

sys.exit(main(sys.argv[1:]))
