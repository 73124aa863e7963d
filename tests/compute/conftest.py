from support.seaweed import bucket, seaweed

__all__ = ["bucket", "seaweed"]
