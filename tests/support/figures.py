"""Figures of a measurement, as a machine of four cores might give them."""

from data_bridge.measure.forecast import Figures, Rate, Sent

FIGURES = Figures(
    cores=4,
    slots=4,
    work=(1.0,) * 40,
    upload_concurrency=2,
    samples_per_shard=1000,
    sample_bytes=1000,
    read=Rate(samples=40_000, bytes=20_000_000, seconds=1, cpu_s=1),
    pack=Rate(samples=10_000, bytes=10_000_000, seconds=1, cpu_s=1),
    pack_all=Rate(samples=36_000, bytes=36_000_000, seconds=1, cpu_s=4, slots=4),
    sent=(Sent(1, 20e6, 1e-9), Sent(8, 100e6, 1e-9), Sent(16, 150e6, 1e-9)),
    record_s=0.04,
)
"""Four slots pack 36 MB/s together, the store takes 100, records allow 100 shards of 1 MB a second."""
