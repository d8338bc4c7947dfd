"""One thread for torch, also in processes that tests start: their nets are tiny, and threads that wait for a core which other work
keeps busy make them many times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
