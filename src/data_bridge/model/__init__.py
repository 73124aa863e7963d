"""Frozen values that flow between the layers."""
