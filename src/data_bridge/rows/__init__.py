"""Rows of any form as plain values, and values as JSON: what stages and writers have in common."""
