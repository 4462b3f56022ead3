"""What the group commit counts of itself."""

from prometheus_client import Gauge, Histogram

batch_size = Histogram(
    "iafactory_commit_batch_items", "Items of one commit.", ("queue",), buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
wait = Histogram(
    "iafactory_commit_wait_seconds",
    "From the arrival of a commit's oldest item to its commit.",
    ("queue",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
depth = Gauge("iafactory_commit_queue_depth", "Items waiting for a commit.", ("queue",), multiprocess_mode="livesum")
