from support.http_server import http_server
from support.seaweed import bucket, seaweed

__all__ = ["bucket", "http_server", "seaweed"]
