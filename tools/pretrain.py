"""develop.py pretrain: makes the shipped small models anew."""
from __future__ import annotations

import sys

from . import pack

if __name__ == "__main__":
    sys.exit(pack.module("toy.pretrain", host=True).main(sys.argv[1:]))
