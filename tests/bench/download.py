"""How fast a shard is transferred, checked and extracted, from a server on this machine.

    python tests/bench/download.py                  a minute on 2 cores: 2,000 photographs of about 120 KB
    python tests/bench/download.py --files 8000     a shard as large as the published ones

Tells how long the whole bucket takes: 620 shards of about 8,000 photographs, on a line as fast as is given.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from common import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from bucket import make_bucket, serve

from landmark.gldv2 import Shard, ShardFiles
from landmark.parallel import cores
from landmark.shards import extract
from landmark.transfer import fetch, look_up, open_session

SHARDS = 620
PER_SHARD = 8_000
# Different ones, that the shard repeats under other names.
PHOTOGRAPHS = 32


def photographs(count: int) -> list[tuple[str, bytes]]:
    """JPEGs of 800 x 600, of a smooth picture and some noise, about 120 KB each."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(PHOTOGRAPHS):
        smooth = cv2.resize(rng.integers(0, 255, (15, 20, 3), np.uint8), (800, 600), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(smooth + rng.normal(0, 11, smooth.shape), 0, 255).astype(np.uint8)
        encoded.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
    ids = (hashlib.md5(str(n).encode()).hexdigest()[:16] for n in range(count))
    return [(i, encoded[n % PHOTOGRAPHS]) for n, i in enumerate(ids)]


def measure(folder: Path, count: int) -> dict[str, float]:
    """Seconds and megabytes of one shard, one thing after another on one core."""
    images = photographs(count)
    make_bucket(folder / "bucket", {"train": [images]}, {})
    figures = {"files": count, "kb_per_file": sum(len(data) for _, data in images) / count / 1e3}
    shard, files = Shard("train", 0), ShardFiles(folder / "data", Shard("train", 0))
    with serve(folder / "bucket") as server:
        session = open_session(1)
        remote = look_up(session, f"{server.url}/{shard.path}")
        begin = time.perf_counter()
        fetch(session, remote, files.part, lambda _: None)
        figures["transfer_mb_s"] = remote.size / 1e6 / (time.perf_counter() - begin)
    begin = time.perf_counter()
    with files.part.open("rb") as file:
        hashlib.file_digest(file, "md5")
    figures["md5_mb_s"] = remote.size / 1e6 / (time.perf_counter() - begin)
    for name, side in (("extract", None), ("shrink", 512)):
        os.sync()
        begin, used = time.perf_counter(), time.process_time()
        done = extract(files.part, folder / name, side)
        figures[f"{name}_s"] = time.perf_counter() - begin
        figures[f"{name}_cpu_s"] = time.process_time() - used
        figures[f"{name}_mb"] = done.size / 1e6
        if side is None:
            files.photographs.parent.mkdir(exist_ok=True)
            os.rename(folder / name, files.photographs)
            files.finish(done, None)
    begin = time.perf_counter()
    assert files.is_done(None)
    figures["is_done_s"] = time.perf_counter() - begin
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2_000, help="photographs in the shard")
    parser.add_argument("--line", type=float, default=1_000, help="Mbit/s of the line to the bucket")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.files)
    size = figures["files"] * figures["kb_per_file"] / 1e3
    print(f"one shard of {figures['files']:,} photographs, {size:.0f} MB; each of these on one core")
    print(f"  transfer from this machine  {figures['transfer_mb_s']:8.0f} MB/s")
    print(f"  md5                         {figures['md5_mb_s']:8.0f} MB/s")
    for name, what in (("extract", "extract and decode"), ("shrink", "the same, shrunk to 512 px")):
        seconds = figures[f"{name}_s"]
        print(f"  {what:27} {seconds:8.1f} s, {size / seconds:.0f} MB/s; {figures[f'{name}_mb']:.0f} MB on disk")
    print(f"  is it done, asked again     {figures['is_done_s']:8.3f} s")
    scale = SHARDS * PER_SHARD / figures["files"]
    figures["all_line_h"] = scale * size * 8 / arguments.line / 3600
    figures["all_extract_h"] = scale * figures["extract_s"] / cores() / 3600
    print(
        f"the whole bucket, extrapolated: {figures['all_line_h']:.1f} h on a line of {arguments.line:.0f} Mbit/s,"
        f" beside it {figures['all_extract_h']:.1f} h of extraction on {cores()} cores"
    )
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
