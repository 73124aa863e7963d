"""A Hub of our own for the tests of this folder, there before anything imports `huggingface_hub`."""

from support.fake_hub import session_hub

session_hub()
