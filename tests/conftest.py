"""One thread for torch, also in processes that tests start: their nets are tiny, and threads that wait for a core which is busy
elsewhere make them many times slower."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
