"""What `orchard watch` takes: until the first answer, for each frame, and of memory.

    python benchmarks/watching.py fruits.onnx belt.avi

It is pinned to one core. A frame's time is processor time: that of the whole video less that of its first frame.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path


def watch(file: Path, video: Path, *flags: str) -> tuple[int, float, float]:
    """Return how many frames were answered, the seconds until the first, and the processor time of the process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "orchard", "watch", str(file), str(video), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - started
        frames = 1 + sum(1 for _ in process.stdout)
    if process.returncode:
        sys.exit(process.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return frames, first, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("video", type=Path)
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    one, first, started = watch(given.file, given.video, "--rate", "0.001")
    frames, _, taken = watch(given.file, given.video)
    print(f"first answer after  {first:.2f} s")
    print(f"a frame             {1000 * (taken - started) / max(1, frames - one):.1f} ms of {frames} frames")
    print(f"memory              {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
