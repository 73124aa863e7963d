from support.fake_hub import session_hub
from support.seaweed import bucket, seaweed

__all__ = ["bucket", "seaweed"]

session_hub()  # before anything imports huggingface_hub
