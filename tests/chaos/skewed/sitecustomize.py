"""On the path of a process, sets its clock wrong by `CHAOS_SKEW` seconds."""

import os
import time

_now, _now_ns = time.time, time.time_ns
_skew = float(os.environ.get("CHAOS_SKEW", "0"))
time.time = lambda: _now() + _skew
time.time_ns = lambda: _now_ns() + int(_skew * 1e9)
